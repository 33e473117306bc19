"""The U-Net of Ho et al. 2020 and its descendants: `UNetConfig()` is the CIFAR-10 model, 35,746,307 parameters."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from undye.config import UNetConfig
from undye.networks.attention import AttentionBlock
from undye.networks.checkpointing import maybe_again
from undye.networks.embedding import ClassEmbedding, sinusoidal
from undye.networks.initialisation import initialise
from undye.networks.padding import crop_like, pad_to_multiple
from undye.networks.resample import downsampling, upsampling
from undye.networks.resblock import ResBlock


class Stage(nn.Module):
    """What the levels have in common on both ways: blocks, each with or without attention, then a resampling."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module], resample: nn.Module | None, again: bool):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resample = resample
        self.again = again

    def apply_block(self, i: int, h: Tensor, skip: Tensor | None, emb: Tensor) -> Tensor:
        """Block i and its attention, on features joined with those of the way down."""
        return maybe_again(self.again, self._block, i, h, skip, emb)

    def _block(self, i: int, h: Tensor, skip: Tensor | None, emb: Tensor) -> Tensor:
        h = h if skip is None else torch.cat([h, skip], dim=1)
        return self.attentions[i](self.blocks[i](h, emb))

    def apply_resample(self, h: Tensor, emb: Tensor) -> Tensor:
        """The next resolution."""
        if isinstance(self.resample, ResBlock):
            return maybe_again(self.again, self.resample, h, emb)
        return h if self.resample is None else self.resample(h)


class DownStage(Stage):
    """A level on the way down."""

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """The level's last features; all of them are appended to `skips`."""
        for i in range(len(self.blocks)):
            h = self.apply_block(i, h, None, emb)
            skips.append(h)
        if self.resample is not None:
            h = self.apply_resample(h, emb)
            skips.append(h)
        return h


class UpStage(Stage):
    """A level on the way up: as many blocks and one more, each fed with what the way down left."""

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """The level's features; those it uses are taken off the end of `skips`."""
        for i in range(len(self.blocks)):
            h = self.apply_block(i, h, skips.pop(), emb)
        return self.apply_resample(h, emb)


class UNet(nn.Module):
    """A U-Net with residual blocks, self-attention at chosen levels, and skip connections from every block.

    Images of any size work: they are padded to a multiple of the total stride inside, and cropped again.
    """

    edge_layers = ("conv_in", "conv_out")
    """The layers that face the image, which optimisers may treat apart."""

    def __init__(
        self,
        config: UNetConfig,
        channels: int,
        out_channels: int,
        num_classes: int | None = None,
        null_label: bool = True,
    ):
        super().__init__()
        self.config = config
        ch, c_emb, widths, init = config.base_channels, 4 * config.base_channels, config.widths, config.init
        last = len(widths) - 1
        self.stride = 2**last

        def res(c_in: int, c_out: int) -> nn.Module:
            return ResBlock(c_in, c_out, c_emb, config)

        def attention(level: int) -> nn.Module:
            return AttentionBlock(widths[level], config) if level in config.attention_levels else nn.Identity()

        self.time_mlp = nn.Sequential(
            initialise(nn.Linear(ch, c_emb), init), nn.SiLU(), initialise(nn.Linear(c_emb, c_emb), init)
        )
        self.class_embedding = None if num_classes is None else ClassEmbedding(num_classes, c_emb, null_label)
        self.conv_in = initialise(nn.Conv2d(channels, config.stem_width, 3, padding=1), init)

        skips, c = [config.stem_width], config.stem_width
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            n = config.num_res_blocks
            blocks = [res(c if i == 0 else width, width) for i in range(n)]
            c = width
            skips += [c] * (n + (level < last))
            attentions = [attention(level) for _ in range(n)]
            resample = downsampling(c, c_emb, config) if level < last else None
            self.down.append(DownStage(blocks, attentions, resample, config.checkpointing))

        self.middle1, self.middle2 = res(c, c), res(c, c)
        self.middle_attention = AttentionBlock(c, config) if config.middle_attention else nn.Identity()

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            n = config.num_res_blocks + 1
            blocks = [res((c if i == 0 else width) + skips.pop(), width) for i in range(n)]
            c = width
            attentions = [attention(level) for _ in range(n)]
            resample = upsampling(c, c_emb, config) if level > 0 else None
            self.up.append(UpStage(blocks, attentions, resample, config.checkpointing))

        self.norm_out = nn.GroupNorm(config.norm_groups, c, config.norm_eps)
        self.conv_out = initialise(nn.Conv2d(c, out_channels, 3, padding=1), init, last=True)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """x: noisy images; t: the time as the Denoiser states it; label: classes, None for the null label if any."""
        config = self.config
        features = sinusoidal(t, config.base_channels, order=config.time_order, denominator=config.time_denominator)
        emb = self.time_mlp(features.to(x.dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(label, x.shape[0])
        h = self.conv_in(pad_to_multiple(x, self.stride))
        skips = [h]
        for stage in self.down:
            h = stage(h, emb, skips)
        h = maybe_again(config.checkpointing, self._middle, h, emb)
        for stage in self.up:
            h = stage(h, emb, skips)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return crop_like(h, x, self.stride)

    def _middle(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.middle2(self.middle_attention(self.middle1(h, emb)), emb)
