"""What OpenAI's improved-diffusion and guided-diffusion call the U-Net's weights and settings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.spec import UNetSpec, nothing_left, take

MODULES = {
    "time_mlp": "time_embed",
    "class_embedding.table": "label_emb",
    "conv_in": "input_blocks.0.0",
    "middle1": "middle_block.0",
    "middle_attention": "middle_block.1",
    "middle2": "middle_block.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
}
LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
}
CHANNEL_MULT = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""Widths that the image size implies, where channel_mult is not given."""
FLAGS: Mapping[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "learn_sigma": False,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
}
"""Their flags that shape the network, with the defaults of their `script_util.py`."""
NUM_CLASSES = 1000
"""Both projects have ImageNet's classes or none."""


def openai_modules(config: UNetConfig) -> dict[str, str]:
    """Their names of the parts of our network: down.0.blocks.1 is input_blocks.2.0, and so on."""
    if not config.middle_attention:
        raise UserError("OpenAI's networks always attend in the middle: a model without cannot have their names")
    names, last, n = dict(MODULES), len(config.widths) - 1, config.num_res_blocks
    k = 1
    for level in range(last + 1):
        for i in range(n):
            names[f"down.{level}.blocks.{i}"] = f"input_blocks.{k}.0"
            names[f"down.{level}.attentions.{i}"] = f"input_blocks.{k}.1"
            k += 1
        names[f"down.{level}.resample"] = f"input_blocks.{k}.0"
        k += 1
    k = 0
    for stage, level in enumerate(range(last, -1, -1)):
        for i in range(n + 1):
            names[f"up.{stage}.blocks.{i}"] = f"output_blocks.{k}.0"
            names[f"up.{stage}.attentions.{i}"] = f"output_blocks.{k}.1"
            k += 1
        # it follows the last block, and its attention where there is one
        names[f"up.{stage}.resample"] = f"output_blocks.{k - 1}.{2 if level in config.attention_levels else 1}"
    return names


def openai_name(name: str, config: UNetConfig) -> str:
    """Their name of one of our weights; q, k and v share the name of the layer that holds all three."""
    modules = openai_modules(config)
    ours = next(m for m in sorted(modules, key=len, reverse=True) if name.startswith(f"{m}."))
    layer, _, kind = name.removeprefix(f"{ours}.").rpartition(".")
    if layer == "conv":
        layer = "op" if ours.startswith("down") else "conv"
    return ".".join(filter(None, (modules[ours], LAYERS.get(layer, layer), kind)))


def from_openai_weights(
    weights: Mapping[str, Tensor], spec: UNetSpec, new_attention_order: bool = False
) -> dict[str, Tensor]:
    """Their weights under our names.

    Args:
        weights: a state dict of their UNetModel.
        spec: the network.
        new_attention_order: the layer for q, k and v has all heads' q, then all k, then all v (their flag
            use_new_attention_order), instead of q, k and v of the first head, then of the second, ...

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    found, used = {}, set()
    for ours, shape in spec.shapes().items():
        theirs = openai_name(ours, spec.config)
        used.add(theirs)
        layer = ours.split(".")[-2]
        if layer in ("q", "k", "v"):
            qkv = take(weights, theirs, (3 * shape[0], *shape[1:]))
            heads = spec.config.heads(shape[0])
            found[ours] = _third(qkv, "qkv".index(layer), heads, new_attention_order).reshape(shape)
        else:
            found[ours] = take(weights, theirs, shape)
    nothing_left(weights, used)
    return found


def _third(qkv: Tensor, part: int, heads: int, new_attention_order: bool) -> Tensor:
    """The rows of q (0), k (1) or v (2), head after head."""
    if new_attention_order:
        return qkv.chunk(3)[part].clone()
    return torch.cat([head.chunk(3)[part] for head in qkv.chunk(heads)])


def from_openai_flags(
    flags: Mapping[str, Any], num_classes: int = NUM_CLASSES, attention_levels: tuple[int, ...] | None = None
) -> UNetSpec:
    """The network that their flags describe, as `model_and_diffusion_defaults` completes them.

    Args:
        flags: names and values of FLAGS, without dashes; lists of numbers as text, as on their command line.
        num_classes: rows of the class table, where class_cond is true.
        attention_levels: in place of attention_resolutions, where they are known.

    Raises:
        UserError: naming what our U-Net cannot express.
    """
    if unknown := sorted(set(flags) - set(FLAGS)):
        raise UserError(f"{unknown[0]!r} is no flag of OpenAI's networks; known are {', '.join(FLAGS)}")
    f = {**FLAGS, **flags}
    size = f["image_size"]
    if f["num_heads_upsample"] not in (-1, f["num_heads"]) and f["num_head_channels"] == -1:
        raise UserError(f"num_heads_upsample = {f['num_heads_upsample']}: undye's U-Net has as many heads up as down")
    if not f["channel_mult"] and size not in CHANNEL_MULT:
        raise UserError(f"image_size = {size} implies no channel_mult: give one")
    given = tuple(float(m) for m in f["channel_mult"].split(",")) if f["channel_mult"] else CHANNEL_MULT[size]
    mult = tuple(int(m) if m == int(m) else m for m in given)
    if attention_levels is None:
        factors = {size // int(resolution) for resolution in f["attention_resolutions"].split(",")}
        attention_levels = tuple(level for level in range(len(mult)) if 2**level in factors)
    by_width = f["num_head_channels"] != -1
    return UNetSpec(
        config=UNetConfig(
            base_channels=f["num_channels"],
            channel_mult=mult,
            stem_channels=None if mult[0] == 1 else round(f["num_channels"] * mult[0]),
            num_res_blocks=f["num_res_blocks"],
            attention_levels=attention_levels,
            num_heads=1 if by_width else f["num_heads"],
            head_channels=f["num_head_channels"] if by_width else None,
            scale_shift_norm=f["use_scale_shift_norm"],
            resample="resblock" if f["resblock_updown"] else "conv",
            downsample_padding="right_bottom" if f["resblock_updown"] else "symmetric",
            time_order="cos_sin",
            time_denominator="half",
            dropout=f["dropout"],
            norm_eps=1e-5,
            init="torch_zero",
            checkpointing=f["use_checkpoint"],
        ),
        out_channels=6 if f["learn_sigma"] else 3,
        num_classes=num_classes if f["class_cond"] else None,
        null_label=not f["class_cond"],
        image_size=(size, size),
    )
