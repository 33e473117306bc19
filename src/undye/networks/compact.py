"""undye's own network, made for CPUs: a U-Net on space-to-depth patches.

What a CPU is good at is few, large matrix products; what it pays for is every other pass over the pixels. So the image
is folded into patches before the first convolution (28x28x1 becomes 14x14x4), resolution changes fold and unfold pixels
likewise (one matrix product each, nothing is thrown away or interpolated), most weights work at the smallest map, and
attention happens only there. Blocks are modulated by the time through scale and shift after the second normalisation
(as in Dhariwal and Nichol 2021), which costs one pass instead of two.

Under bf16 autocast the convolutions run in bf16; normalisation and attention stay in float32, where CPUs are faster.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from undye.config import CompactConfig
from undye.networks.attention import from_heads, to_heads
from undye.networks.checkpointing import maybe_again
from undye.networks.embedding import ClassEmbedding, sinusoidal
from undye.networks.initialisation import init_zero
from undye.networks.padding import crop_like, pad_to_multiple
from undye.precision import at_least_single

TIME_FEATURES = 64


class Norm(nn.Module):
    """Group normalisation in float32, whatever the precision around it.

    What it gives stays float32 under autocast, where the next layer takes it so; else it is in x's dtype again.
    """

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        # about 8 channels in a group, and a number of groups that divides them
        self.groups = next(g for g in range(max(1, channels // 8), 0, -1) if channels % g == 0)
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise over the pixels of each group."""
        mixed, own = torch.is_autocast_enabled(x.device.type), x.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(at_least_single(own))
            weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
            x = F.group_norm(x, self.groups, weight, bias)
        return x if mixed else x.to(own)


class Block(nn.Module):
    """A residual block: norm, SiLU, conv, norm, scale and shift by the time, SiLU, dropout, conv."""

    def __init__(self, channels: int, c_emb: int, dropout: float):
        super().__init__()
        self.norm1 = Norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(c_emb, 2 * channels)
        self.norm2 = Norm(channels, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        init_zero(self.conv2)

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        """x: features; emb: the time (and class) embedding, after its nonlinearity."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        scale, shift = self.modulation(emb).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(self.dropout(F.silu(torch.addcmul(shift, h, 1 + scale))))


class Attention(nn.Module):
    """Multi-head self-attention over all positions, with a residual connection."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = Norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        init_zero(self.proj)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend, project, add."""
        h = self.norm(x)
        qkv = self.qkv(h).to(h.dtype)
        with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext():
            q, k, v = (to_heads(part, self.heads) for part in qkv.chunk(3, dim=1))
            out = from_heads(F.scaled_dot_product_attention(q, k, v), x)
        return x + self.proj(out)


class Fold(nn.Module):
    """Half the map: 2x2 pixels become channels, then one matrix product."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mix = nn.Conv2d(4 * c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h/2 w/2"]:
        """Halve height and width."""
        return self.mix(F.pixel_unshuffle(x, 2))


class Unfold(nn.Module):
    """Twice the map: one matrix product, then channels become 2x2 pixels."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mix = nn.Conv2d(c_in, 4 * c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        """Double height and width."""
        return F.pixel_shuffle(self.mix(x), 2)


class Stage(nn.Module):
    """The blocks of a level, with attention after the first half of them where it is asked for."""

    def __init__(
        self, channels: int, blocks: int, c_emb: int, dropout: float, head_channels: int = 0, again: bool = False
    ):
        super().__init__()
        self.again = again
        self.blocks = nn.ModuleList(Block(channels, c_emb, dropout) for _ in range(blocks))
        self.attention = Attention(channels, head_channels) if head_channels else None

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        """The level's features."""
        half = (len(self.blocks) + 1) // 2
        for i, block in enumerate(self.blocks, start=1):
            h = maybe_again(self.again, block, h, emb)
            if i == half and self.attention is not None:
                h = self.attention(h)
        return h


class CompactUNet(nn.Module):
    """The network of the `cpu` preset. Images of any size work: they are padded inside, and cropped again."""

    edge_layers = ("stem", "head")
    """The layers that face the image, which optimisers may treat apart."""

    def __init__(
        self,
        config: CompactConfig,
        channels: int,
        out_channels: int,
        num_classes: int | None = None,
        null_label: bool = True,
    ):
        super().__init__()
        self.config = config
        widths, patch = config.channels, config.patch
        c_emb = 4 * TIME_FEATURES
        self.stride = patch * 2 ** (len(widths) - 1)

        def stage(level: int, head_channels: int = 0) -> nn.Module:
            return Stage(
                widths[level], config.blocks[level], c_emb, config.dropout, head_channels, config.checkpointing
            )

        self.time_mlp = nn.Sequential(nn.Linear(TIME_FEATURES, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb))
        self.class_embedding = None if num_classes is None else ClassEmbedding(num_classes, c_emb, null_label)
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        upper = range(len(widths) - 1)
        self.down = nn.ModuleList(stage(level) for level in upper)
        self.fold = nn.ModuleList(Fold(widths[level], widths[level + 1]) for level in upper)
        self.middle = stage(len(widths) - 1, config.head_channels)
        self.unfold = nn.ModuleList(Unfold(widths[level + 1], widths[level]) for level in upper)
        self.join = nn.ModuleList(nn.Conv2d(2 * widths[level], widths[level], 1) for level in upper)
        self.up = nn.ModuleList(stage(level) for level in upper)
        self.norm_out = Norm(widths[0])
        self.head = nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1)
        init_zero(self.head)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """x: noisy images; t: the time as the Denoiser states it; label: classes, None for the null label if any."""
        emb = self.time_mlp(sinusoidal(t, TIME_FEATURES).to(x.dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(label, x.shape[0])
        emb = F.silu(emb)
        h = F.pixel_unshuffle(pad_to_multiple(x, self.stride), self.config.patch)
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        skips = []
        for stage, fold in zip(self.down, self.fold, strict=True):
            h = stage(h, emb)
            skips.append(h)
            h = fold(h)
        h = self.middle(h, emb)
        for level in reversed(range(len(self.up))):
            h = self.join[level](torch.cat([self.unfold[level](h), skips[level]], dim=1))
            h = self.up[level](h, emb)
        h = self.head(F.silu(self.norm_out(h)))
        return crop_like(F.pixel_shuffle(h, self.config.patch), x, self.stride)
