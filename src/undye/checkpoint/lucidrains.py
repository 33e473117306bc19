"""Files of denoising-diffusion-pytorch (lucidrains): what its Trainer saves, or a state dict alone.

Read are the discrete-time models: its GaussianDiffusion and LearnedGaussianDiffusion, and that of its
classifier_free_guidance, with their Unet. A Trainer's file holds the weights twice, as trained and averaged
(`weights`, "model" or "ema"); a state dict may be GaussianDiffusion's, ema_pytorch's, or the Unet's alone.

GaussianDiffusion keeps its tables beside the weights: the schedule follows from `betas`, and what the network predicts
from `loss_weight`, which is a different function of the signal-to-noise ratio for each. What no tensor shows comes from
the user's settings, under the names of their arguments, else from their defaults; each default that is taken is noted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from undye.checkpoint.content import state_dict_of
from undye.checkpoint.imported import Imported, Settings
from undye.config import LucidrainsConfig, ModelConfig, PredictionName, ScheduleConfig, ScheduleName
from undye.denoiser import build_schedule
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.schedule_names import translate
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.networks.lucidrains import LucidrainsUNet
from undye.networks.names_lucidrains import CLASSES, from_lucidrains_weights

OBJECTIVES: Mapping[str, PredictionName] = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}
# GaussianDiffusion's defaults, and those of its namesake for classes
UNSAID: Mapping[str, Any] = {"beta_schedule": "sigmoid", "timesteps": 1000, "objective": "pred_v"}
UNSAID_CLASSES: Mapping[str, Any] = {"beta_schedule": "cosine", "timesteps": 1000, "objective": "pred_noise"}
TABLES = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "loss_weight",
}
"""What GaussianDiffusion registers beside the network. All of it follows from `betas` and the objective."""
PREFIXES = ("ema_model.", "online_model.", "model.", "net.")
FIRST = ("init_conv.", "mid_block1.", "input_block.", "to_time_emb.")
"""How weights of their U-Nets begin, also of those that are not read here: KarrasUnet has the last two."""
OTHERS: Mapping[str, str] = {
    "time_mlp.0.weights": "has random or learned Fourier features of the time, as their continuous-time and elucidated "
    "diffusions do",
    "to_time_emb.0.weights": "is their KarrasUnet",
    "downs.0.0.block1.norm.weight": "has group normalisation, as versions before 2.0 do",
    "downs.0.0.block1.block.1.weight": "has group normalisation, as versions before 2.0 do",
    "downs.0.0.ds_conv.weight": "has ConvNeXt blocks, as versions before 0.16 do",
}
"""Weights of what cannot be read, and what it is."""


def knows(content: Any) -> bool:
    """Whether this holds the weights of one of their U-Nets, as a Trainer saves them or alone."""
    if not isinstance(content, dict):
        return False
    return _is_averaged(content.get("ema")) or any(_stripped(name).startswith(FIRST) for name in content)


def _is_averaged(part: Any) -> bool:
    """Whether this is a state dict of ema_pytorch's, around a U-Net of theirs."""
    names = part if isinstance(part, dict) else ()
    return any(str(n).startswith("ema_model.") and _stripped(n).startswith(FIRST) for n in names)


def _stripped(name: Any) -> str:
    """The name of a weight within the Unet, whatever it is wrapped in."""
    text = str(name)
    while (prefix := next((p for p in PREFIXES if text.startswith(p)), None)) is not None:
        text = text.removeprefix(prefix)
    return text


def read(path: Path, content: Any, settings: Settings) -> Imported:
    """A model from what a file holds.

    Raises:
        UserError: if it is damaged, of another kind, or says what undye cannot do.
    """
    state = _chosen(path, content, settings)
    if name := next((name for name in state if name.startswith("net.")), None):
        raise UserError(f"{path}: {name!r} is of their ElucidatedDiffusion: undye reads their GaussianDiffusion")
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    if not weights:
        weights = {k: v for k, v in state.items() if k not in TABLES}
    tables = {k: state[k] for k in state if not k.startswith("model.") and k not in weights}
    if unknown := sorted(set(tables) - TABLES):
        raise UserError(f"{path}: {unknown[0]!r} belongs to no part of their GaussianDiffusion")
    _refuse_others(path, weights, content)
    network, channels, learned, num_classes = read_shape(path, weights, settings)
    if tables:
        _check_tables(path, tables, settings, learned)

    usual = UNSAID if num_classes is None else UNSAID_CLASSES
    schedule = _schedule(path, tables, settings, usual)
    model = settings.over(
        {
            "prediction": _prediction(path, tables, settings, usual, build_schedule(schedule), learned),
            "variance": "learned_range" if learned else "fixed_small",
            "clip_x_0": True,
            "schedule": schedule,
        }
    )
    if (model["variance"] in LEARNED) != learned:
        raise UserError(
            f"--set variance={model['variance']}: the network has {1 + learned} numbers for each of the image"
        )
    _buildable(model["schedule"])
    config = ModelConfig(
        network=network,
        image_size=settings.needed_image_size(path),
        channels=channels,
        num_classes=num_classes,
        time_input="zero_based",
        **model,
    )
    with torch.device("meta"):
        ours = LucidrainsUNet(network, channels, channels * (1 + learned), num_classes)
    return Imported.build(config, from_lucidrains_weights(weights, ours), "lucidrains", settings)


def _chosen(path: Path, content: dict[Any, Any], settings: Settings) -> dict[str, Tensor]:
    """The state dict of GaussianDiffusion or of a Unet that the user asks for, the averaged one by default."""
    trainer = _is_averaged(content.get("ema"))
    ema = content["ema"] if trainer else content
    if not _is_averaged(ema):
        return state_dict_of(content, path)
    which = settings.take("weights", "ema")
    if which not in ("ema", "model"):
        raise UserError(f"--set weights={which}: the file has ema and model")
    if which == "model" and trainer and "model" in content:
        return state_dict_of(content["model"], path)
    if "weights" not in settings.values:
        settings.note("weights: the averaged ones (ema) are taken (--set weights=model for those that were trained)")
    state = state_dict_of(ema, path)
    if which == "ema" and "initted" in state and not bool(state["initted"].any()):
        settings.note("weights: training was too short to average any, ema are those it started from")
    prefix = "ema_model." if which == "ema" else "online_model."
    if unknown := [k for k in state if not k.startswith(("ema_model.", "online_model.")) and k not in EMA_STATE]:
        raise UserError(f"{path}: {unknown[0]!r} belongs to no part of ema_pytorch's EMA")
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise UserError(f"{path} holds no weights but the averaged ones: leave --set weights out")
    return found


EMA_STATE = ("initted", "step")
"""What ema_pytorch's EMA keeps beside the weights."""


def _refuse_others(path: Path, weights: Mapping[str, Tensor], content: dict[Any, Any]) -> None:
    """Raise a UserError for what is theirs, but not the Unet of GaussianDiffusion as of version 2."""
    version = content.get("version")
    of = f" (a file of version {version[:20]!r})" if isinstance(version, str) else ""
    reads = "undye reads the Unet of their GaussianDiffusion, of version 2.0 or later"
    for name, what in OTHERS.items():
        if name in weights:
            raise UserError(f"{path}{of}: the network with {name!r} {what}; {reads}")
    for name in ("init_conv.weight", "input_block.weight"):
        if name in weights and weights[name].ndim in (3, 5):
            raise UserError(f"{path}{of}: {name!r} is not for images, but for 1 or 3 dimensions; {reads}")
    if "downs.0.2.fn.norm.g" in weights and CLASSES not in weights:
        # its norms scale by the width of the map instead of the number of channels
        raise UserError(f"{path}{of}: 'downs.0.2.fn.norm.g' without classes is of guided_diffusion.py; {reads}")


def read_shape(
    path: Path, weights: Mapping[str, Tensor], settings: Settings
) -> tuple[LucidrainsConfig, int, bool, int | None]:
    """The network as the weights show it, the images' channels, whether the variance is learned, and classes.

    Raises:
        UserError: if they are no Unet's.
    """

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in weights:
            raise UserError(f"{path}: weight {name!r} is missing")
        found = tuple(weights[name].shape)
        if len(found) != ndim or 0 in found:
            raise UserError(f"{path}: weight {name!r} has shape {found}: it is no such network")
        return found

    classes = CLASSES in weights
    stem, inputs, *_ = shape("init_conv.weight", 4)
    outputs = shape("final_conv.weight", 4)[0]
    base = shape("time_mlp.1.weight", 2)[1]
    levels = 0
    while f"downs.{levels}.0.block1.proj.weight" in weights:
        levels += 1
    if not levels:
        raise UserError(f"{path}: weight 'downs.0.0.block1.proj.weight' is missing")
    widths = []
    for level in range(levels):
        folds = level < levels - 1 and not classes
        widths.append(shape(f"downs.{level}.3.{'1.' if folds else ''}weight", 4)[0])
    if wrong := [width for width in widths if width % base]:
        raise UserError(f"{path}: a width of {wrong[0]} channels is no multiple of {base}")

    options: dict[str, Any]
    if classes:  # no weight shows the heads: its linear attentions always have four
        heads = settings.unsaid({"attn_heads": 4}, "lucidrains")["attn_heads"]
        inner, middle = (shape(f"{where}.fn.fn.to_qkv.weight", 4)[0] // 3 for where in ("downs.0.2", "mid_attn"))
        if heads < 1 or middle % heads or inner % 4:
            raise UserError(f"{path}: the attention is {middle} wide, not to be divided into {heads} heads")
        options = {
            "attention_levels": (),
            "num_heads": (4,),
            "head_channels": (inner // 4,),
            "middle_num_heads": heads,
            "middle_head_channels": middle // heads,
            "memory": 0,
            "downsample": "conv",
        }
    else:
        softmax = tuple(level for level in range(levels) if f"downs.{level}.2.to_out.weight" in weights)
        memories = [shape(f"downs.{level}.2.mem_kv", 4) for level in range(levels)]
        # (2, heads, number, width) with softmax, (2, heads, width, number) else
        by_level = [(m[1], *(m[2:] if level in softmax else m[:1:-1])) for level, m in enumerate(memories)]
        _, middle, number, middle_width = shape("mid_attn.mem_kv", 4)
        options = {
            "attention_levels": softmax,
            "num_heads": tuple(heads for heads, _, _ in by_level),
            "head_channels": tuple(width for _, _, width in by_level),
            "middle_num_heads": middle,
            "middle_head_channels": middle_width,
            "memory": number,
            "max_period": settings.unsaid({"sinusoidal_pos_emb_theta": 10000.0}, "lucidrains")[
                "sinusoidal_pos_emb_theta"
            ],
        }
    channels, conditioned, learned = _channels(path, inputs, outputs)
    if conditioned:
        settings.note("self_condition: undye gives the network zeros for its earlier estimate of x_0, at every step")
    config = LucidrainsConfig(
        base_channels=base,
        channel_mult=tuple(width // base for width in widths),
        stem_channels=None if stem == base else stem,
        self_condition=conditioned,
        **options,
    )
    return config, channels, learned, shape(CLASSES, 2)[0] if classes else None


def _channels(path: Path, inputs: int, outputs: int) -> tuple[int, bool, bool]:
    """The images' channels, whether the network is given an estimate beside them, whether it learned the variance."""
    for channels in (1, 3):
        if inputs in (channels, 2 * channels) and outputs in (channels, 2 * channels):
            return channels, inputs == 2 * channels, outputs == 2 * channels
    if outputs == 2 * inputs + 2:
        raise UserError(f"{path}: {outputs} outputs for {inputs} channels are of WeightedObjectiveGaussianDiffusion")
    raise UserError(f"{path}: {inputs} inputs and {outputs} outputs: undye's images have 1 or 3 channels")


def _check_tables(path: Path, tables: Mapping[str, Tensor], settings: Settings, learned: bool) -> None:
    """Raise a UserError if what GaussianDiffusion keeps beside the weights is damaged, or lacks what is read off it."""
    needed = {"betas": "beta_schedule"} | ({} if learned else {"loss_weight": "objective"})
    for name, setting in needed.items():
        if name not in tables and setting not in settings.values:
            raise UserError(f"{path}: {name!r} is missing: give --set {setting}=... in its place")
    for name in ("betas", "alphas_cumprod", "loss_weight"):
        unused = name == "loss_weight" and (learned or "objective" in settings.values)
        if name in tables and not unused and not bool(tables[name].isfinite().all()):
            raise UserError(f"{path}: {name!r} is not finite: the file is damaged, take another")


def _schedule(path: Path, tables: Mapping[str, Tensor], settings: Settings, usual: Mapping[str, Any]) -> ScheduleConfig:
    """The schedule whose betas are in the file; without any, the one that the user names, or theirs."""
    if "betas" in tables:
        return match_schedule(path, tables["betas"])
    said = settings.unsaid({k: usual[k] for k in ("beta_schedule", "timesteps")}, "lucidrains")
    try:
        ours, options = translate("lucidrains", said["beta_schedule"])
    except ValueError as error:
        raise UserError(f"--set beta_schedule: {error}") from None
    config = _named(cast(ScheduleName, ours), said["timesteps"], bool(options.get("rescale_betas")))
    _buildable(config)
    return config


CANDIDATES: tuple[tuple[ScheduleName, bool], ...] = (
    ("sigmoid_alpha_bar", False),
    ("cosine", False),
    ("linear", True),
    ("linear", False),
)
"""Schedules that a file may have, and whether their betas are rescaled."""


def match_schedule(path: Path, betas: Tensor) -> ScheduleConfig:
    """The schedule of undye's with these betas, float32 as they are in the file.

    Raises:
        UserError: if there is none.
    """
    if betas.ndim != 1 or not betas.is_floating_point() or not 1 <= len(betas) <= 1_000_000:
        raise UserError(
            f"{path}: 'betas' has shape {tuple(betas.shape)} and type {betas.dtype}: it is no noise schedule"
        )
    betas = betas.double()
    alpha_bar = torch.log1p(-betas).cumsum(0).exp()
    for name, rescale in CANDIDATES:
        try:
            config = _named(name, len(betas), rescale)
            schedule = build_schedule(config)
        except ValueError:  # too few steps for this one
            continue
        # float32 betas move alpha_bar by 3e-8 at most. Their sigmoid has ends in float32, which moves alpha_bar by
        # 8e-9; near T, where alpha_bar is tiny, that is up to 2e-3 of a beta if there are 100,000 of them
        same = torch.allclose(betas, schedule.beta[1:], rtol=2e-3, atol=0.0)
        if same and torch.allclose(alpha_bar, schedule.alpha_bar[1:], rtol=0.0, atol=1e-7):
            return config
    raise UserError(
        f"{path}: its {len(betas)} betas, {betas[0].item():.4g} to {betas[-1].item():.4g}, are none of undye's "
        "schedules: it knows their linear, cosine and sigmoid with the usual settings"
    )


def _named(name: ScheduleName, num_steps: int, rescale_betas: bool) -> ScheduleConfig:
    """A schedule by undye's name; at T = 1000 the factor is 1, and left out."""
    return ScheduleConfig(name=name, num_steps=num_steps, rescale_betas=rescale_betas and num_steps != 1000)


def _buildable(schedule: ScheduleConfig) -> None:
    try:
        build_schedule(schedule)
    except ValueError as error:
        raise UserError(f"the {schedule.name} schedule of {schedule.num_steps} steps: {error}") from None


def _prediction(
    path: Path,
    tables: Mapping[str, Tensor],
    settings: Settings,
    usual: Mapping[str, Any],
    schedule: NoiseSchedule,
    learned: bool,
) -> PredictionName:
    """What the network predicts: as the user says, else as the loss weights show, else theirs by default."""
    said = settings.take("objective", None)
    if said is not None and said not in OBJECTIVES:
        raise UserError(f"--set objective={said}: theirs are {', '.join(OBJECTIVES)}")
    if said is not None:
        return OBJECTIVES[said]
    if learned:
        # whatever its objective says, and its loss weights with it
        settings.note("objective: pred_noise, as their LearnedGaussianDiffusion always has (--set objective=...)")
        return "eps"
    if "loss_weight" in tables:
        return match_objective(path, tables["loss_weight"], schedule)
    return OBJECTIVES[settings.unsaid({"objective": usual["objective"]}, "lucidrains")["objective"]]


def match_objective(path: Path, loss_weight: Tensor, schedule: NoiseSchedule) -> PredictionName:
    """What a loss with these weights is of: the weights are 1, SNR or SNR / (SNR + 1), with SNR clipped above or not.

    Raises:
        UserError: if it is none of these.
    """
    snr = schedule.snr[1:]
    if loss_weight.shape == snr.shape and loss_weight.is_floating_point():
        weight = loss_weight.double()
        # for each, the SNR that must have been in the numerator; one number of it is where it was clipped
        numerators: dict[PredictionName, Tensor] = {"eps": weight * snr, "x_0": weight, "v": weight * (snr + 1)}
        for name, numerator in numerators.items():
            if torch.allclose(numerator, snr.clamp(max=numerator.max()), rtol=1e-2, atol=1e-6):
                return name
    raise UserError(
        f"{path}: 'loss_weight' is of no known objective: give --set objective=pred_noise, pred_x0 or pred_v"
    )
