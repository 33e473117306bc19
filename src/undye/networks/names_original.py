"""What the PyTorch conversions of Ho et al.'s TensorFlow models call the U-Net's weights.

These are pesser/pytorch_diffusion's names; ermongroup/ddim and much that was built on it have the same ones.
"""

from collections.abc import Mapping

from torch import Tensor

from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.spec import UNetSpec, nothing_left, take

MODULES = {
    "time_mlp.0": "temb.dense.0",
    "time_mlp.2": "temb.dense.1",
    "middle1": "mid.block_1",
    "middle_attention": "mid.attn_1",
    "middle2": "mid.block_2",
}
LAYERS = {"emb_proj": "temb_proj", "shortcut": "nin_shortcut"}
PARTS = {"blocks": "block", "attentions": "attn"}


def original_name(name: str, config: UNetConfig) -> str:
    """Their name of one of our weights; their ways down and up are both numbered from full resolution."""
    for ours, theirs in MODULES.items():
        if name.startswith(f"{ours}."):
            name = theirs + name.removeprefix(ours)
    words = name.split(".")
    if words[0] in ("down", "up"):
        words[2] = PARTS.get(words[2], f"{words[0]}sample")
        if words[0] == "up":
            words[1] = str(len(config.widths) - 1 - int(words[1]))
    words[-2] = LAYERS.get(words[-2], words[-2])
    return ".".join(words)


def from_original_weights(weights: Mapping[str, Tensor], spec: UNetSpec) -> dict[str, Tensor]:
    """Their weights under our names.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    if wide := sorted(name for name in weights if ".conv_shortcut." in name):
        raise UserError(f"weight {wide[0]!r} is a 3x3 shortcut (conv_shortcut): undye's U-Net has 1x1 shortcuts only")
    shapes = spec.shapes()
    names = {ours: original_name(ours, spec.config) for ours in shapes}
    found = {ours: take(weights, names[ours], shape) for ours, shape in shapes.items()}
    nothing_left(weights, set(names.values()))
    return found
