"""What w86763777/pytorch-ddpm calls the U-Net's weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.spec import UNetSpec, nothing_left, take

TABLE = "time_embedding.timembedding.0.weight"
"""Their time embedding before its two layers: a row for each of the times 0..T-1, frozen, but kept with the weights."""
MODULES = {
    "time_mlp.0": "time_embedding.timembedding.1",
    "time_mlp.2": "time_embedding.timembedding.3",
    "conv_in": "head",
    "middle1": "middleblocks.0",
    "middle_attention": "middleblocks.0.attn",
    "middle2": "middleblocks.1",
    "norm_out": "tail.0",
    "conv_out": "tail.2",
}
LAYERS = {
    "norm1": "block1.0",
    "conv1": "block1.2",
    "emb_proj": "temb_proj.1",
    "norm2": "block2.0",
    "conv2": "block2.3",
    "norm": "group_norm",
    "q": "proj_q",
    "k": "proj_k",
    "v": "proj_v",
    "proj_out": "proj",
    "conv": "main",
}


def w86763777_name(name: str, config: UNetConfig) -> str:
    """Their name of one of our weights; they number blocks and resamplings of each way through, in running order."""
    words = name.split(".")
    if words[0] in ("down", "up"):
        way, stage, part, *_ = words
        blocks = config.num_res_blocks + (way == "up")
        index = int(stage) * (blocks + 1) + (blocks if part == "resample" else int(words[3]))
        theirs = [f"{way}blocks", str(index), *(["attn"] if part == "attentions" else [])]
    else:
        ours = next(m for m in MODULES if name.startswith(f"{m}."))
        theirs = [MODULES[ours]]
        if name.count(".") == ours.count(".") + 1:  # the module is a layer itself
            return ".".join([*theirs, words[-1]])
    return ".".join([*theirs, LAYERS.get(words[-2], words[-2]), words[-1]])


def from_w86763777_weights(weights: Mapping[str, Tensor], spec: UNetSpec) -> dict[str, Tensor]:
    """Their weights under our names; in place of their table of times come our sines and cosines.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape, or a table of other numbers.
    """
    shapes = spec.shapes()
    names = {ours: w86763777_name(ours, spec.config) for ours in shapes}
    found = {ours: take(weights, names[ours], shape) for ours, shape in shapes.items()}
    nothing_left(weights, {*names.values(), TABLE})
    check_table(weights[TABLE])
    # their features alternate, sine and cosine of each frequency in turn; ours are all sines, then all cosines
    into = found["time_mlp.0.weight"]
    found["time_mlp.0.weight"] = torch.cat([into[:, 0::2], into[:, 1::2]], dim=1)
    return found


def check_table(table: Tensor) -> None:
    """Raise a UserError unless the table holds the sines and cosines that their code makes, to 0.01.

    Rounding makes the tables of different machines differ by some 1e-4, and so does their EMA: it averages this
    constant too, and where 0.9999 and 1 - 0.9999 of a number do not sum to it in float32, the average drifts off.
    """
    if table.ndim != 2 or table.shape[1] % 2 or not table.numel() or not table.is_floating_point():
        raise UserError(f"weight {TABLE!r} has shape {tuple(table.shape)} of {table.dtype}: it is no table of times")
    rows, dim = table.shape
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
    angle = torch.arange(rows)[:, None] * frequency
    expected = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
    if not float((table.float() - expected).abs().max()) < 0.01:
        raise UserError(
            f"weight {TABLE!r} does not hold the sines and cosines of times 0..{rows - 1}: it cannot be read"
        )
