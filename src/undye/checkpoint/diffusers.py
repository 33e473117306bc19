"""Folders of the diffusers library: a UNet2DModel with a DDPM or DDIM scheduler, as DDPMPipeline loads and saves them.

model_index.json                                what the parts are
unet/config.json, diffusion_pytorch_model.*     the network
scheduler/scheduler_config.json                 schedule, prediction, variance, clipping

Older folders have the files of the network, and scheduler_config.json, side by side at the top; they are read too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from undye.checkpoint.card import CARD, UNKNOWN_LICENSE, diffusers_card, read_license
from undye.checkpoint.content import read_json, read_pickle, read_safetensors, state_dict_of, without_prefixes
from undye.checkpoint.imported import Imported, Settings
from undye.checkpoint.native import write_tensors
from undye.config import ModelConfig, ScheduleConfig, ScheduleName, UNetConfig
from undye.denoiser import Denoiser, build_schedule
from undye.diffusion.schedule_names import called_in, translate
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.files import atomic_path
from undye.networks.names_diffusers import (
    from_diffusers_config,
    from_diffusers_weights,
    to_diffusers_config,
    to_diffusers_weights,
)
from undye.networks.spec import UNetSpec

WEIGHTS = "diffusion_pytorch_model"
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
IN_DDPM_ALONE = ("sigmoid",)
"""Schedules that DDIMScheduler does not know by name."""
OWN_STEPS: Mapping[str, Any] = {"timestep_spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": True}
"""How a DDIMScheduler takes the steps that undye's DDIM takes."""


def is_diffusers(folder: Path) -> bool:
    """Whether a folder looks like one that diffusers wrote."""
    if (folder / "model_index.json").is_file() or (folder / "unet" / "config.json").is_file():
        return True
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "_class_name" in data


def export_diffusers(denoiser: Denoiser, folder: Path, license: str = UNKNOWN_LICENSE) -> Path:
    """Write a model as a folder that DDPMPipeline and DDIMPipeline load and sample from, whole or not at all.

    Args:
        denoiser: the model.
        folder: where; must not exist.
        license: of the weights, for the model card.

    Raises:
        UserError: naming what diffusers cannot express, or if `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name")
    unet, scheduler = unet_config(denoiser.config), scheduler_config(denoiser.config)
    weights = to_diffusers_weights(denoiser.network.state_dict())
    with atomic_path(folder, durable=True) as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "scheduler").mkdir()
        index = {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", unet["_class_name"]],
        }
        _write(temporary / "model_index.json", index)
        _write(temporary / "unet" / "config.json", unet)
        _write(temporary / "scheduler" / "scheduler_config.json", scheduler)
        write_tensors(weights, temporary / "unet" / f"{WEIGHTS}.safetensors", {"format": "pt"})
        (temporary / CARD).write_text(diffusers_card(denoiser.config, license), encoding="utf-8")
    return folder


def unet_config(config: ModelConfig) -> dict[str, Any]:
    """The UNet2DModel of a model.

    Raises:
        UserError: naming what diffusers cannot express.
    """
    if not isinstance(config.network, UNetConfig):
        raise UserError(
            f"diffusers has no network like undye's {config.network.kind}: only models with network kind unet "
            "(presets ddpm-cifar10, ddpm-256) can be exported to it"
        )
    told_t = {"zero_based"} | ({"zero_based_per_mille"} if config.schedule.num_steps == 1000 else set())
    if config.time_input not in told_t:
        raise UserError(f"diffusers tells its networks t - 1: time_input {config.time_input} cannot be exported")
    stride = 2 ** (len(config.network.channel_mult) - 1)
    if config.image_size[0] % stride or config.image_size[1] % stride:
        raise UserError(
            f"diffusers' networks do not pad: images of {config.image_size[0]}x{config.image_size[1]} are no multiple "
            f"of {stride}, so the model cannot be exported"
        )
    if config.num_classes is not None:
        raise UserError("diffusers' DDPMPipeline gives its network no class: a model with classes cannot be exported")
    return to_diffusers_config(
        UNetSpec(
            config=config.network,
            channels=config.channels,
            out_channels=config.channels,
            image_size=config.image_size,
        )
    )


def scheduler_config(config: ModelConfig) -> dict[str, Any]:
    """The DDPMScheduler of a model, with every setting stated that diffusers would otherwise choose.

    Raises:
        UserError: naming what diffusers cannot express.
    """
    if config.prediction not in PREDICTIONS:
        raise UserError(f"diffusers has no model that predicts {config.prediction}: it cannot be exported")
    if config.variance in LEARNED:
        raise UserError(
            f"diffusers' DDIMPipeline cannot sample a model with a learned variance ({config.variance}): it cannot be "
            "exported"
        )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": config.schedule.num_steps,
        **_betas(config.schedule),
        "variance_type": config.variance,
        "clip_sample": config.clip_x_0,
        "clip_sample_range": 1.0,
        "prediction_type": PREDICTIONS[config.prediction],
        "thresholding": False,
        "rescale_betas_zero_snr": config.schedule.zero_terminal_snr,
        # from T down, where "leading" would start below T and never see pure noise, and to the data itself
        **OWN_STEPS,
    }


def _betas(schedule: ScheduleConfig) -> dict[str, Any]:
    """The schedule by diffusers' name, or as a list of betas where one of its two schedulers has none."""
    factor = 1000 / schedule.num_steps if schedule.rescale_betas else 1.0
    start = (1e-4 if schedule.beta_start is None else schedule.beta_start) * factor
    end = (0.02 if schedule.beta_end is None else schedule.beta_end) * factor
    if schedule.name not in IN_DDPM_ALONE:
        try:
            name = called_in("diffusers", schedule.name)
            return {"beta_start": start, "beta_end": end, "beta_schedule": name, "trained_betas": None}
        except ValueError:
            pass
    # diffusers looks at nothing but the list then; the ends are for the way back
    betas = build_schedule(replace(schedule, zero_terminal_snr=False)).beta[1:].tolist()
    if schedule.without_ends:
        start, end = betas[0], betas[-1]
    return {"beta_start": start, "beta_end": end, "beta_schedule": "linear", "trained_betas": betas}


def read_diffusers(folder: Path, settings: Settings) -> Imported:
    """A model from a folder that diffusers wrote.

    Raises:
        UserError: for files that are missing or damaged, or say what undye cannot do.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    places = [folder / "scheduler", folder, *([folder.parent / "scheduler"] if folder.name == "unet" else [])]
    scheduler = next((p for p in (d / "scheduler_config.json" for d in places) if p.is_file()), None)
    data = _mapping(read_json(unet / "config.json"), unet / "config.json")
    if data.get("_class_name") != "UNet2DModel":
        raise UserError(f"{unet / 'config.json'} is of a {data.get('_class_name')}: only UNet2DModel can be read")
    spec = from_diffusers_config(data, null_label=settings.take("null_label", False))
    model: dict[str, Any] = {"clip_x_0": True, "variance": "fixed_small", "prediction": "eps"}
    if scheduler is None:
        settings.note(f"{folder} has no scheduler_config.json: the schedule is taken to be linear, T = 1000")
        model["schedule"] = ScheduleConfig()
    else:
        model.update(read_scheduler(_mapping(read_json(scheduler), scheduler), scheduler, settings))
    if spec.out_channels == 2 * spec.channels and model["variance"] != "learned_range":
        settings.note("the network has twice as many outputs as the images channels: variance learned_range")
        model["variance"] = "learned_range"
    model = settings.over(model)
    _check(model["schedule"], unet)
    needed = spec.channels * (2 if model["variance"] in LEARNED else 1)
    if spec.out_channels != needed:
        raise UserError(f"{unet / 'config.json'}: out_channels {spec.out_channels} should be {needed}")
    size = settings.take("image_size", spec.image_size) or settings.needed_image_size(unet / "config.json")
    if spec.channels not in (1, 3):
        raise UserError(f"the model is for images of {spec.channels} channels: undye's have 1 or 3")
    config = ModelConfig(
        network=spec.config, image_size=size, channels=spec.channels, num_classes=spec.num_classes,
        null_label=spec.null_label, time_input="zero_based", **model,
    )  # fmt: skip
    weights = from_diffusers_weights(_weights(unet), spec)
    return Imported.build(config, weights, "diffusers", settings, read_license(folder))


def read_scheduler(data: Mapping[str, Any], where: Path, settings: Settings) -> dict[str, Any]:
    """Fields of ModelConfig that a scheduler's configuration decides.

    Raises:
        UserError: naming what undye cannot do.
    """
    if data.get("_class_name") not in SCHEDULERS:
        raise UserError(f"{where} is of a {data.get('_class_name')}: only {' and '.join(SCHEDULERS)} can be read")
    clips = _flag(data, "clip_sample", True, where)
    only = {"thresholding": False, **({"clip_sample_range": 1.0} if clips else {})}
    for key, needed in only.items():
        if data.get(key, needed) != needed:
            raise UserError(f"{where}: {key} {data[key]!r} is not supported, only {needed}")
    prediction = {v: k for k, v in PREDICTIONS.items()}.get(str(data.get("prediction_type", "epsilon")))
    if prediction is None:
        raise UserError(f"{where}: prediction_type {data['prediction_type']!r} is not supported")
    if data["_class_name"] == "DDIMScheduler":
        variance = "fixed_small"
        settings.note("a DDIM scheduler says nothing of ancestral sampling: variance fixed_small, as DDPMScheduler's")
        if others := [f"{k} {str(data[k])[:40]!r}" for k, own in OWN_STEPS.items() if data.get(k, own) != own]:
            settings.note(f"{', '.join(others)}: ignored, undye's samplers choose their steps themselves")
    elif (variance := VARIANCES.get(str(data.get("variance_type", "fixed_small")))) is None:
        raise UserError(f"{where}: variance_type {data['variance_type']!r} is not supported")
    return {
        "prediction": prediction,
        "variance": variance,
        "clip_x_0": clips,
        "schedule": _schedule(data, where),
    }


def _schedule(data: Mapping[str, Any], where: Path) -> ScheduleConfig:
    num_steps, zero = data.get("num_train_timesteps", 1000), _flag(data, "rescale_betas_zero_snr", False, where)
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or not 1 <= num_steps <= 1_000_000:
        raise UserError(f"{where}: num_train_timesteps {num_steps!r} is not a number of timesteps")
    if (listed := data.get("trained_betas")) is not None:
        return _named_by_betas(listed, num_steps, zero, data, where)
    theirs = data.get("beta_schedule", "linear")
    try:
        ours, _ = translate("diffusers", str(theirs))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    ends: dict[str, float | None] = {"beta_start": None, "beta_end": None}
    if ours != "cosine":
        for key, usual in (("beta_start", 1e-4), ("beta_end", 0.02)):
            value = _real(data.get(key, usual), key, where)
            ends[key] = None if value == usual else value
    config = ScheduleConfig(name=cast(Any, ours), num_steps=num_steps, zero_terminal_snr=zero)
    config = replace(config, beta_start=ends["beta_start"], beta_end=ends["beta_end"])
    _check(config, where)
    return config


def _flag(data: Mapping[str, Any], key: str, usual: bool, where: Path) -> bool:
    value = data.get(key, usual)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} {value!r} is neither true nor false")
    return value


def _real(value: Any, key: str, where: Path) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {key} is not a number")
    return number


def _named_by_betas(listed: Any, num_steps: int, zero: bool, data: Mapping[str, Any], where: Path) -> ScheduleConfig:
    """A list of betas is one of undye's schedules, or cannot be said."""
    if not isinstance(listed, list) or len(listed) != num_steps:
        raise UserError(f"{where}: trained_betas is not a list of {num_steps} numbers")
    given = torch.tensor([_real(b, "trained_betas", where) for b in listed], dtype=torch.float64)
    names: tuple[ScheduleName, ...] = get_args(ScheduleName)
    start, end = (_real(data.get(key, b), key, where) for key, b in (("beta_start", 1e-4), ("beta_end", 0.02)))
    for name in names:
        tries: list[dict[str, Any]] = [{}]
        if not ScheduleConfig(name=name).without_ends:
            # what export writes beside a list: the ends; and of sqrt, what it wrote of old: the first and last entry
            tries += [{"rescale_betas": True}, {"beta_start": start, "beta_end": end}]
            tries += [{"beta_start": start**2, "beta_end": end**2}] if name == "sqrt" else []
        for options in tries:
            config = ScheduleConfig(name=name, num_steps=num_steps, **options)
            try:
                beta = build_schedule(config).beta[1:]
            except ValueError:
                continue
            if torch.allclose(beta, given, rtol=1e-6, atol=1e-12):
                return replace(config, zero_terminal_snr=zero)
    raise UserError(f"{where}: trained_betas is none of undye's named schedules, and others cannot be stored")


def _check(config: ScheduleConfig, where: Path) -> None:
    try:
        build_schedule(config)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def is_network(content: Any) -> bool:
    """Whether a file's content is the weights of a UNet2DModel, without the configuration they need."""
    return isinstance(content, dict) and any(str(name).startswith("time_embedding.linear_1.") for name in content)


def weight_files(folder: Path) -> list[Path]:
    """The files of the network's weights: one, of whatever variant, or all those that an index names.

    Raises:
        UserError: if there are none, it is not clear which, or the index is damaged.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    for suffix in (".safetensors", ".bin"):
        if (unet / f"{WEIGHTS}{suffix}").is_file():
            return [unet / f"{WEIGHTS}{suffix}"]
        if (index := unet / f"{WEIGHTS}{suffix}.index.json").is_file():
            return _indexed(index)
    files = sorted(p for suffix in (".safetensors", ".bin") for p in unet.glob(f"{WEIGHTS}.*{suffix}"))
    if len(files) == 1:  # a variant, such as fp16
        return files
    found = f"but {', '.join(p.name for p in files[:5])}: rename the one to read" if files else "nor a variant of them"
    raise UserError(f"{unet} has no {WEIGHTS}.safetensors and no {WEIGHTS}.bin, {found}")


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    names = _mapping(read_json(index), index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map, which says where each weight is")
    files = sorted(set(names.values()))
    for name in files:
        if not name or Path(name).name != name or "\0" in name:
            raise UserError(f"{index}: {name[:80]!r} is no name of a file beside it")
        if not (index.parent / name).is_file():
            raise UserError(f"{index} names {name[:80]!r}, which is missing: the folder is incomplete")
    return [index.parent / name for name in files]


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        read = read_safetensors if path.suffix == ".safetensors" else read_pickle
        part = state_dict_of(without_prefixes(read(path), path), path)
        if twice := sorted(set(part) & set(weights)):
            raise UserError(f"{path}: weight {twice[0]!r} is in another file too")
        weights |= part
    return weights


def _mapping(data: Any, where: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a table of settings")
    return data


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
