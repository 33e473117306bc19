"""The U-Net of dome272's Diffusion-Models-pytorch, its `UNet` and its `UNet_conditional`: 23,332,739 parameters.

How it differs from the network of Ho et al. 2020, which `undye.networks.unet` is:

- It has three levels below full resolution, 2, 4 and 4 times as wide, and a middle 8 times as wide, with one pair of
  double convolutions each and a single skip connection per level, instead of several blocks with one each.
- Convolutions come before their norm, which is one group over all channels, have no bias, and go with GELU. A block may
  be plain: two convolutions, and no sum with its input; only the first of each pair is residual, with a GELU after the
  sum.
- Maps are halved by their largest values and doubled by straight lines between pixels, both without weights.
- The time goes to the levels as bare sines and cosines, without layers of its own, and is added where a level's
  convolutions end, just before its self-attention, instead of inside of every block.
- A class adds its row of a table to those sines and cosines; no class adds nothing, so that the null label of
  classifier-free guidance has no weights.
- Every level attends, full resolution too (4096 positions at 64x64), with four heads and a feed-forward layer, as in a
  transformer; the middle does not.
- All layers start as PyTorch's do: a new network's output is not nothing.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from undye.config import Dome272Config
from undye.errors import UserError
from undye.networks.padding import crop_like, pad_to_multiple


def encoding(t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """Sines, then cosines of t at the frequencies 10000^(-2i / dim), i < dim / 2, in float32.

    That is `sinusoidal` with denominator half, but for the rounding: near t = 1000 the angles of the two differ by
    6e-5. Here it is that of the code which trained the weights.
    """
    exponent = torch.arange(0, dim, 2, device=t.device).float() / dim
    angle = t.float()[:, None] * (1 / 10000**exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class DoubleConv(nn.Module):
    """Conv, norm, GELU, conv, norm; a residual one adds its input, then applies GELU. `c_mid` is the width between."""

    def __init__(self, c_in: int, c_out: int, c_mid: int | None = None, residual: bool = False):
        super().__init__()
        c_mid = c_out if c_mid is None else c_mid
        self.residual = residual
        self.conv1 = nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, c_mid)
        self.conv2 = nn.Conv2d(c_mid, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The new features, as large as the map was."""
        h = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))
        return F.gelu(x + h) if self.residual else h


class SelfAttention(nn.Module):
    """A transformer's layer over all positions: norm, attention, add; norm, two linear layers with GELU, add."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)
        # the start of nn.MultiheadAttention, which theirs is
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend and compute at each position."""
        h = x.flatten(2).transpose(1, 2)
        # each of q, k and v has its heads one after the other
        q, k, v = self.qkv(self.norm1(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        h = h + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = h + self.fc2(F.gelu(self.fc1(self.norm2(h))))
        return h.transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A level, on the way down and up alike: a residual and a plain double convolution, the time, self-attention."""

    def __init__(self, c_in: int, c_out: int, c_mid: int, config: Dome272Config):
        super().__init__()
        self.block1 = DoubleConv(c_in, c_in, residual=True)
        self.block2 = DoubleConv(c_in, c_out, c_mid)
        self.emb_proj = nn.Linear(config.emb_channels, c_out)
        self.attention = SelfAttention(c_out, config.num_heads)

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        """h: features at the level's resolution; emb: the time (and class), after its nonlinearity."""
        return self.attention(self.block2(self.block1(h)) + self.emb_proj(emb)[:, :, None, None])


class Dome272UNet(nn.Module):
    """The U-Net of Diffusion-Models-pytorch; see the top of this file for what sets it apart.

    Theirs is for 64x64 alone. Here images of any size work: they are padded to a multiple of 8 inside, and cropped
    again. The time that attention at full resolution takes grows with the square of the number of pixels.
    """

    edge_layers = ("stem", "head")
    """The layers that face the image, which optimisers may treat apart."""

    stride = 8

    def __init__(
        self,
        config: Dome272Config,
        channels: int,
        out_channels: int,
        num_classes: int | None = None,
        null_label: bool = True,
    ):
        super().__init__()
        self.config, self.null_label = config, null_label
        c = config.base_channels
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes, config.emb_channels)
        self.stem = DoubleConv(channels, c)
        self.down = nn.ModuleList(Stage(i * c, o * c, o * c, config) for i, o in ((1, 2), (2, 4), (4, 4)))
        self.middle = nn.ModuleList(DoubleConv(i * c, o * c) for i, o in ((4, 8), (8, 8), (8, 4)))
        # half of what goes in is the skip connection
        self.up = nn.ModuleList(Stage(i * c, o * c, i * c // 2, config) for i, o in ((8, 2), (4, 1), (2, 1)))
        self.head = nn.Conv2d(c, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """x: noisy images; t: the time as the Denoiser states it; label: classes, None for the null label if any.

        Raises:
            UserError: without labels, if the network has classes but no null label.
        """
        emb = encoding(t, self.config.emb_channels).to(x.dtype)
        if self.class_embedding is not None:
            emb = self._add_class(emb, self.class_embedding.weight, label)
        emb = F.silu(emb)
        h = self.stem(pad_to_multiple(x, self.stride))
        skips = []
        for stage in self.down:
            skips.append(h)
            h = stage(F.max_pool2d(h, 2), emb)
        for block in self.middle:
            h = block(h)
        for stage in self.up:
            larger = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
            h = stage(torch.cat([skips.pop(), larger], dim=1), emb)
        return crop_like(self.head(h), x, self.stride)

    def _add_class(self, emb: Tensor, table: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            if not self.null_label:
                raise UserError("this model knows no null label: give it the class of each image")
            return emb
        # the null label comes after the classes, and adds nothing
        return emb + F.embedding(label, F.pad(table, (0, 0, 0, 1)) if self.null_label else table)
