"""The pieces of the U-Net of Ho et al. 2020, as their code has them (`nn.py`, `unet.py`)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def init_fan_avg(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Uniform weights of variance scale / mean(fan_in, fan_out), zero bias: the original code's `default_init`.

    Its scale of 0 means 1e-10: the last layer of each residual branch starts at nearly, but not exactly, nothing.
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """GroupNorm, swish, conv; add the time embedding; GroupNorm, swish, dropout, conv; add the input."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, dropout: float, groups: int, eps: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps)
        self.conv1 = init_fan_avg(nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_proj = init_fan_avg(nn.Linear(c_emb, c_out))
        self.norm2 = nn.GroupNorm(groups, c_out, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = init_fan_avg(nn.Conv2d(c_out, c_out, 3, padding=1), scale=0.0)
        self.shortcut = nn.Identity() if c_in == c_out else init_fan_avg(nn.Conv2d(c_in, c_out, 1))

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        """x: features; emb: the time (and class) embedding before its nonlinearity."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions, one head, with a residual connection."""

    def __init__(self, channels: int, groups: int, eps: float):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.q, self.k, self.v = (init_fan_avg(nn.Conv2d(channels, channels, 1)) for _ in range(3))
        self.proj_out = init_fan_avg(nn.Conv2d(channels, channels, 1), scale=0.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend, project, add."""
        h = self.norm(x)
        q, k, v = (to_heads(layer(h), 1) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(from_heads(F.scaled_dot_product_attention(q, k, v), x))


def to_heads(x: Float[Tensor, "b c h w"], heads: int) -> Float[Tensor, "b heads n d"]:
    """Positions as a sequence, channels split into heads."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def from_heads(x: Float[Tensor, "b heads n d"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_heads`, in the shape of `like`."""
    return x.transpose(2, 3).reshape(like.shape[0], -1, *like.shape[2:])


class Downsample(nn.Module):
    """Stride-2 convolution that pads right and bottom: TensorFlow's SAME on an even size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = init_fan_avg(nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
        """Halve height and width."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = init_fan_avg(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Double height and width."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hp wp"]:
    """Zeros around an image so that both sides are multiples, split evenly: flips stay flips. See `crop_like`."""
    (top, bottom), (left, right) = (_margins(n, multiple) for n in x.shape[2:])
    return F.pad(x, (left, right, top, bottom)) if top + bottom + left + right else x


def crop_like(y: Float[Tensor, "b d hp wp"], x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b d h w"]:
    """Undo `pad_to_multiple`: the part of `y` that lies over the image `x`."""
    (top, _), (left, _) = (_margins(n, multiple) for n in x.shape[2:])
    return y[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _margins(size: int, multiple: int) -> tuple[int, int]:
    total = -size % multiple
    return total // 2, total - total // 2


def concat(h: Float[Tensor, "b c h w"], skip: Float[Tensor, "b d h w"]) -> Float[Tensor, "b e h w"]:
    """Join features with those kept from the way down."""
    return torch.cat([h, skip], dim=1)
