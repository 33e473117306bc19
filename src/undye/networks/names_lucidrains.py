"""What denoising-diffusion-pytorch (lucidrains) calls the weights of its U-Nets."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from undye.networks.lucidrains import Attention, LinearAttention, LucidrainsUNet
from undye.networks.spec import nothing_left, take

PARTS = {
    "time_mlp.0": "time_mlp.1",
    "time_mlp.2": "time_mlp.3",
    "class_mlp": "classes_mlp",
    "conv_in": "init_conv",
    "middle1": "mid_block1",
    "middle_attention": "mid_attn",
    "middle2": "mid_block2",
    "final": "final_res_block",
    "conv_out": "final_conv",
}
IN_LEVEL = {"block1": "0", "block2": "1", "attention": "2", "resample": "3"}
IN_BLOCK = {
    "modulation": "mlp.1",
    "conv1": "block1.proj",
    "norm1.gain": "block1.norm.g",
    "conv2": "block2.proj",
    "norm2.gain": "block2.norm.g",
    "shortcut": "res_conv",
}
IN_ATTENTION = {"norm.gain": "norm.g", "qkv": "to_qkv", "memory": "mem_kv", "proj_out": "to_out"}
IN_LINEAR_ATTENTION = IN_ATTENTION | {"proj_out": "to_out.0", "norm_out.gain": "to_out.1.g"}
TABLE, CLASSES, NULL = "class_embedding.table.weight", "classes_emb.weight", "null_classes_emb"
"""Our table of classes; their rows of it, and its last row."""


def lucidrains_name(name: str, network: LucidrainsUNet) -> str:
    """Their name of one of our weights, but for the table of classes, which is two of theirs.

    In the class network each attention is wrapped twice: in what adds the input, and in what normalises before.
    """
    way, _, rest = name.partition(".")
    if way in ("down", "up"):
        k, part, rest = rest.split(".", 2)
        where = f"{way}s.{k}.{IN_LEVEL[part]}"
        level = int(k) if way == "down" else len(network.up) - 1 - int(k)
        linear = level not in network.config.softmax_levels
    else:
        part = next(ours for ours in PARTS if name.startswith(f"{ours}."))
        where, rest, linear = PARTS[part], name.removeprefix(f"{part}."), False
    if part.endswith("attention"):
        layer = _rename(rest, IN_LINEAR_ATTENTION if linear else IN_ATTENTION)
        if network.class_embedding is None:
            return f"{where}.{layer}"
        return f"{where}.fn.{layer}" if layer.startswith("norm.") else f"{where}.fn.fn.{layer}"
    if part == "resample":  # a lone convolution, or one that follows a layer without weights
        return f"{where}.{_rename(rest, {'conv': '1'})}"
    return f"{where}.{_rename(rest, IN_BLOCK)}"


def _rename(name: str, table: Mapping[str, str]) -> str:
    """A name whose beginning is in the table, by that; else the name itself."""
    ours = next((ours for ours in table if name == ours or name.startswith(f"{ours}.")), None)
    return name if ours is None else table[ours] + name.removeprefix(ours)


def from_lucidrains_weights(weights: Mapping[str, Tensor], network: LucidrainsUNet) -> dict[str, Tensor]:
    """Their weights under our names.

    Args:
        weights: a state dict of their Unet.
        network: ours; only its shapes matter, so that it may be on the meta device.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    found, used = {}, set()
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    for ours, shape in shapes.items():
        if ours == TABLE:
            rows = take(weights, CLASSES, (shape[0] - 1, shape[1])), take(weights, NULL, (1, shape[1]))
            found[ours] = torch.cat(rows)
            used |= {CLASSES, NULL}
            continue
        theirs = lucidrains_name(ours, network)
        used.add(theirs)
        if ours.endswith(".memory"):
            attention = cast(Attention, network.get_submodule(ours.removesuffix(".memory")))
            found[ours] = _memory(weights, theirs, shape, attention).reshape(shape)
        else:
            found[ours] = take(weights, theirs, shape)
    nothing_left(weights, used)
    return found


def _memory(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...], attention: Attention) -> Tensor:
    """Learned keys and values as (2, heads, number, width); in their linear attention the number is last."""
    heads, (_, rows, width) = attention.heads, shape
    if isinstance(attention, LinearAttention):
        return take(weights, name, (2, heads, width, rows // heads)).transpose(2, 3)
    return take(weights, name, (2, heads, rows // heads, width))
