""".pt files of OpenAI's improved-diffusion and guided-diffusion: a state dict of their UNetModel, and nothing else.

What the weights show is read off them; what they do not (the number of attention heads, the image size, the noise
schedule, the order of q, k and v) comes from the user's settings, under the names of their flags, else from the
defaults of their scripts; each default that is taken is noted. The fields of ModelConfig can be said too.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from undye.checkpoint.content import state_dict_of
from undye.checkpoint.imported import Imported, Settings
from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import build_schedule
from undye.diffusion.schedule_names import translate
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.networks.names_openai import from_openai_flags, from_openai_weights

# what only the flags of their scripts say, with those scripts' defaults
UNSAID: Mapping[str, Any] = {
    "image_size": (64, 64),
    "num_heads": 4,
    "num_head_channels": -1,
    "use_new_attention_order": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "sigma_small": False,
    "predict_xstart": False,
    "rescale_timesteps": True,
    "dropout": 0.0,
}


def knows(content: Any) -> bool:
    """Whether this is a state dict of their UNetModel, whole or not."""
    return isinstance(content, dict) and any(str(name).startswith("input_blocks.") for name in content)


def read(path: Path, content: Any, settings: Settings) -> Imported:
    """A model from what a .pt file holds.

    Raises:
        UserError: if it is damaged, of another kind, or says what undye cannot do.
    """
    weights = state_dict_of(content, path)
    shape = read_shape(weights, path)
    flags = settings.unsaid(UNSAID, "OpenAI")
    size = flags["image_size"]
    if size[0] != size[1]:
        raise UserError("OpenAI's networks are for square images: give --set image_size=H")
    rows, levels = shape.pop("num_classes"), shape.pop("attention_levels")
    spec = from_openai_flags(
        {
            **shape,
            "image_size": size[0],
            **{k: flags[k] for k in ("num_heads", "num_head_channels", "use_new_attention_order")},
        },
        num_classes=rows or 1000,
        attention_levels=tuple(levels),
    )
    found = from_openai_weights(weights, spec, flags["use_new_attention_order"])
    channels = weights["input_blocks.0.0.weight"].shape[1]
    if channels != 3:
        raise UserError(f"{path} is for images of {channels} channels: OpenAI's models have 3")
    learned = spec.out_channels == 6
    fixed = "fixed_small" if flags["sigma_small"] else "fixed_large"
    model = settings.over(
        {
            "prediction": "x_0" if flags["predict_xstart"] else "eps",
            "variance": "learned_range" if learned else fixed,
            "clip_x_0": True,
            "schedule": _schedule(flags["noise_schedule"], flags["diffusion_steps"], path),
        }
    )
    if (model["variance"] in LEARNED) != learned:
        raise UserError(
            f"--set variance={model['variance']}: the network has {1 + learned} numbers for each of the image"
        )
    _check(model["schedule"], path)
    config = ModelConfig(
        network=replace(spec.config, dropout=flags["dropout"]),
        image_size=size,
        channels=3,
        num_classes=spec.num_classes,
        null_label=spec.null_label,
        time_input="zero_based_per_mille" if flags["rescale_timesteps"] else "zero_based",
        **model,
    )
    return Imported.build(config, found, "openai", settings)


def read_shape(weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Their flags that the weights show, `num_classes` (rows of the class table, or None) and `attention_levels`.

    Raises:
        UserError: if they are no UNetModel's.
    """
    kinds = {name for name in ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight") if name in weights}
    if len(kinds) < 3:
        missing = {"input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"} - kinds
        raise UserError(f"{path}: weight {min(missing)!r} is missing: it is no UNetModel of OpenAI's")
    dims = {"input_blocks.0.0.weight": 4, "out.2.weight": 4, "time_embed.0.weight": 2, "label_emb.weight": 2}
    dims |= {"input_blocks.1.0.emb_layers.1.weight": 2, "input_blocks.1.0.in_layers.2.weight": 4}
    for name, ndim in dims.items():
        if name in weights and (weights[name].ndim != ndim or not weights[name].numel()):
            raise UserError(f"{path}: weight {name!r} has shape {tuple(weights[name].shape)}: it is no such network")

    def block(way: str, k: int) -> list[str]:
        return [name for name in weights if name.startswith(f"{way}_blocks.{k}.")]

    outputs = 0
    while block("output", outputs):
        outputs += 1
    # a level ends, on the way up, with what doubles the map: a second residual block, or a lone convolution
    ends = [
        k
        for k in range(outputs)
        if any(f"output_blocks.{k}.{i}.{layer}.weight" in weights for i in (1, 2) for layer in ("conv", "in_layers.2"))
    ]
    blocks = ends[0] if ends else outputs - 1
    if blocks < 1 or outputs % (blocks + 1):
        raise UserError(f"{path}: the blocks of the network do not form levels: weights are missing")
    levels = outputs // (blocks + 1)
    widths, attends = [], []
    for level in range(levels):
        k = 1 + level * (blocks + 1)
        name = f"input_blocks.{k}.0.in_layers.2.weight"
        if name not in weights or weights[name].ndim != 4:
            raise UserError(f"{path}: weight {name!r} is missing or no convolution")
        widths.append(weights[name].shape[0])
        if f"input_blocks.{k}.1.qkv.weight" in weights:
            attends.append(level)
    width = weights["input_blocks.0.0.weight"].shape[0]
    base = weights["time_embed.0.weight"].shape[1]
    first = "input_blocks.1.0"
    emb, conv = (weights.get(f"{first}.{layer}.weight") for layer in ("emb_layers.1", "in_layers.2"))
    if emb is None or conv is None or base < 1:
        raise UserError(f"{path}: weight '{first}.emb_layers.1.weight' is missing")
    if any(w % base and (2 * w) % base for w in (width, *widths)):
        raise UserError(f"{path}: widths {widths} are no multiples of {base}")
    table = weights.get("label_emb.weight")
    return {
        "num_channels": base,
        "channel_mult": ",".join(repr(w / base) for w in widths),
        "num_res_blocks": blocks,
        "attention_levels": attends,
        "use_scale_shift_norm": emb.shape[0] == 2 * conv.shape[0],
        "resblock_updown": bool(ends)
        and not any(f"output_blocks.{ends[0]}.{i}.conv.weight" in weights for i in (1, 2)),
        "learn_sigma": weights["out.2.weight"].shape[0] == 6,
        "class_cond": table is not None,
        "num_classes": None if table is None else table.shape[0],
    }


def _schedule(name: str, num_steps: int, path: Path) -> ScheduleConfig:
    try:
        ours, options = translate("improved-diffusion", name)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    # at T = 1000 the factor is 1: then the paper's own words
    rescale = bool(options.get("rescale_betas")) and num_steps != 1000
    config = ScheduleConfig(name="cosine" if ours == "cosine" else "linear", num_steps=num_steps, rescale_betas=rescale)
    _check(config, path)
    return config


def _check(schedule: ScheduleConfig, path: Path) -> None:
    try:
        build_schedule(schedule)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
