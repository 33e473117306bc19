"""The U-Nets of denoising-diffusion-pytorch (lucidrains): its Unet, and that of its classifier_free_guidance.

Each level has two residual blocks and an attention, linear (Shen et al. 2021) or softmax, whose keys and values are
joined by a few learned ones. All norms are over the channels of each pixel, with a gain and no bias. What a level's
blocks and attention give on the way down, its two blocks on the way up are fed with; the map is halved at the end of
each level but the last, where the width still changes. The class network embeds classes with layers of their own.

The defaults of LucidrainsConfig are their Unet's; the class network has memory=0 and downsample="conv".
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from undye.config import LucidrainsConfig
from undye.networks.attention import to_heads
from undye.networks.checkpointing import maybe_again
from undye.networks.embedding import ClassEmbedding
from undye.networks.padding import crop_like, pad_to_multiple


class PixelNorm(nn.Module):
    """Each pixel's channels divided by their root mean square, times a gain for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise over the channels."""
        return F.normalize(x, dim=1) * (self.gain * len(self.gain) ** 0.5)[:, None, None]


class ResBlock(nn.Module):
    """Conv, norm, scale and shift by the time (and class), SiLU, dropout; conv, norm, SiLU; add the input."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, dropout: float):
        super().__init__()
        self.modulation = nn.Linear(c_emb, 2 * c_out)
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, padding=1), PixelNorm(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, padding=1), PixelNorm(c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        """x: features; emb: the time (and class) embedding, after its nonlinearity."""
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift)
        h = F.silu(self.norm2(self.conv2(self.dropout(h))))
        return h + self.shortcut(x)


class Attention(nn.Module):
    """What both kinds share: norm; queries, keys and values in heads; learned keys and values before the map's.

    Attributes:
        memory: (2, heads * number, width): keys, then values, head after head; None without. Not of four dimensions, so
            that nobody takes it for a convolution.
    """

    def __init__(self, channels: int, heads: int, head_channels: int, memory: int):
        super().__init__()
        self.heads = heads
        self.norm = PixelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * heads * head_channels, 1, bias=False)
        self.memory = nn.Parameter(torch.randn(2, heads * memory, head_channels)) if memory else None
        self.proj_out = nn.Conv2d(heads * head_channels, channels, 1)

    def project(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, H W, width), keys and values (B, heads, memory + H W, width)."""
        q, k, v = (to_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=1))
        if self.memory is not None:
            # x.shape[0], which a trace keeps free, where len(x) would be a number
            batch = x.shape[0]
            learned = self.memory.to(k.dtype).unflatten(1, (self.heads, -1))[:, None].expand(-1, batch, -1, -1, -1)
            k, v = (torch.cat([more, part], dim=2) for more, part in zip(learned, (k, v), strict=True))
        return q, k, v

    def combine(self, out: Float[Tensor, "b heads n e"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """All heads of each position of the map `x`, projected."""
        return self.proj_out(out.transpose(2, 3).reshape(x.shape[0], -1, *x.shape[2:]))


class SoftmaxAttention(Attention):
    """Self-attention over all positions; its cost grows with the square of their number."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend, project, add."""
        q, k, v = self.project(x)
        return x + self.combine(F.scaled_dot_product_attention(q, k, v), x)


class LinearAttention(Attention):
    """Keys choose positions, queries choose channels, so that the cost is linear in the number of positions."""

    def __init__(self, channels: int, heads: int, head_channels: int, memory: int):
        super().__init__(channels, heads, head_channels, memory)
        self.norm_out = PixelNorm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend, project, normalise, add."""
        q, k, v = self.project(x)
        context = k.softmax(dim=2).transpose(2, 3) @ v
        out = (q.softmax(dim=3) * q.shape[3] ** -0.5) @ context
        return x + self.norm_out(self.combine(out, x))


class Fold(nn.Module):
    """Half the map: 2x2 pixels become channels, then a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(4 * c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h/2 w/2"]:
        """Halve height and width."""
        return self.conv(F.pixel_unshuffle(x, 2))


class Upsample(nn.Module):
    """Twice the map: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        """Double height and width."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """What the levels have in common on both ways: two blocks, an attention, and what changes width and resolution."""

    def __init__(self, blocks: tuple[ResBlock, ResBlock], attention: nn.Module, resample: nn.Module, again: bool):
        super().__init__()
        self.block1, self.block2 = blocks
        self.attention, self.resample = attention, resample
        self.again = again

    def first(self, h: Tensor, emb: Tensor) -> Tensor:
        """The first half: a block."""
        return maybe_again(self.again, self.block1, h, emb)

    def second(self, h: Tensor, emb: Tensor) -> Tensor:
        """The second half: a block and the attention."""
        return maybe_again(self.again, self._second, h, emb)

    def _second(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block2(h, emb))


class DownLevel(Level):
    """A level on the way down."""

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """What goes to the next level; the features of both halves are appended to `skips`."""
        h = self.first(h, emb)
        skips.append(h)
        h = self.second(h, emb)
        skips.append(h)
        return self.resample(h)


class UpLevel(Level):
    """A level on the way up: each half is fed with what the way down left."""

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """What goes to the next level; the features it uses are taken off the end of `skips`."""
        h = self.first(torch.cat([h, skips.pop()], dim=1), emb)
        h = self.second(torch.cat([h, skips.pop()], dim=1), emb)
        return self.resample(h)


class LucidrainsUNet(nn.Module):
    """The network of denoising-diffusion-pytorch, with or without classes.

    Images of any size work: they are padded to a multiple of the total stride inside, and cropped again.
    """

    edge_layers = ("conv_in", "conv_out")
    """The layers that face the image, which optimisers may treat apart."""

    def __init__(
        self,
        config: LucidrainsConfig,
        channels: int,
        out_channels: int,
        num_classes: int | None = None,
        null_label: bool = True,
    ):
        super().__init__()
        self.config = config
        ch, widths, levels = config.base_channels, config.widths, len(config.channel_mult)
        last = levels - 1
        self.stride = 2**last
        c_emb = 4 * ch * (1 if num_classes is None else 2)

        def res(c_in: int, c_out: int) -> ResBlock:
            return ResBlock(c_in, c_out, c_emb, config.dropout)

        def attention(level: int, width: int) -> Attention:
            kind = SoftmaxAttention if level in config.softmax_levels else LinearAttention
            return kind(width, *config.heads(level), config.memory)

        def embedding_mlp() -> nn.Sequential:
            return nn.Sequential(nn.Linear(ch, 4 * ch), nn.GELU(), nn.Linear(4 * ch, 4 * ch))

        self.time_mlp = embedding_mlp()
        self.class_embedding = None if num_classes is None else ClassEmbedding(num_classes, ch, null_label)
        self.class_mlp = None if num_classes is None else embedding_mlp()
        self.conv_in = nn.Conv2d(channels * (1 + config.self_condition), widths[0], 7, padding=3)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            upper, lower = widths[level], widths[level + 1]
            resample = self._downsample(upper, lower) if level < last else nn.Conv2d(upper, lower, 3, padding=1)
            blocks = res(upper, upper), res(upper, upper)
            self.down.append(DownLevel(blocks, attention(level, upper), resample, config.checkpointing))
        self.middle1, self.middle2 = res(widths[-1], widths[-1]), res(widths[-1], widths[-1])
        self.middle_attention = SoftmaxAttention(widths[-1], *config.middle_heads, config.memory)
        for level in reversed(range(levels)):
            upper, lower = widths[level], widths[level + 1]
            resample = Upsample(lower, upper) if level > 0 else nn.Conv2d(lower, upper, 3, padding=1)
            # the skip connections of a level are as wide as its input
            blocks = res(lower + upper, lower), res(lower + upper, lower)
            self.up.append(UpLevel(blocks, attention(level, lower), resample, config.checkpointing))
        self.final = res(2 * widths[0], widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 1)

    def _downsample(self, c_in: int, c_out: int) -> nn.Module:
        match self.config.downsample:
            case "fold":
                return Fold(c_in, c_out)
            case "conv":
                return nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """x: noisy images; t: the time as the Denoiser states it; label: classes, None for the null label if any."""
        emb = self.time_mlp(time_features(t, self.config.base_channels, self.config.max_period).to(x.dtype))
        if self.class_embedding is not None and self.class_mlp is not None:
            emb = torch.cat([emb, self.class_mlp(self.class_embedding(label, x.shape[0]))], dim=1)
        emb = F.silu(emb)
        h = pad_to_multiple(x, self.stride)
        if self.config.self_condition:
            h = torch.cat([torch.zeros_like(h), h], dim=1)
        h = stem = self.conv_in(h)
        skips: list[Tensor] = []
        for level in self.down:
            h = level(h, emb, skips)
        h = maybe_again(self.config.checkpointing, self._middle, h, emb)
        for level in self.up:
            h = level(h, emb, skips)
        h = maybe_again(self.config.checkpointing, self.final, torch.cat([h, stem], dim=1), emb)
        return crop_like(self.conv_out(h), x, self.stride)

    def _middle(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.middle2(self.middle_attention(self.middle1(h, emb)), emb)


def time_features(t: Float[Tensor, " b"], dim: int, max_period: float) -> Float[Tensor, "b dim"]:
    """Sines, then cosines of t at dim / 2 frequencies from 1 to 1 / max_period, in float32.

    As `embedding.sinusoidal`, but rounded as theirs: at t = 1000 a last bit of a frequency is 1e-4 of an angle.
    """
    half = dim // 2
    step = -math.log(max_period) / (half - 1)
    angle = t.float()[:, None] * torch.exp(step * torch.arange(half, dtype=torch.float32, device=t.device))
    return torch.cat([angle.sin(), angle.cos()], dim=1)
