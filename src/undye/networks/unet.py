"""The U-Net of Ho et al. 2020 exactly as published: `UNetConfig()` is the CIFAR-10 model, 35,746,307 parameters."""

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from undye.config import UNetConfig
from undye.networks.blocks import (
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    concat,
    crop_like,
    init_fan_avg,
    pad_to_multiple,
)
from undye.networks.embedding import ClassEmbedding, sinusoidal


class DownStage(nn.Module):
    """A level on the way down: residual blocks, each with or without attention, then a downsampling."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module], resample: Downsample | None):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resample = resample

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """The level's last features; all of them are appended to `skips`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, emb))
            skips.append(h)
        if self.resample is not None:
            h = self.resample(h)
            skips.append(h)
        return h


class UpStage(nn.Module):
    """A level on the way up: as many blocks and one more, each fed with what the way down left, and an upsampling."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module], resample: Upsample | None):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resample = resample

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"], skips: list[Tensor]) -> Tensor:
        """The level's features; those it uses are taken off the end of `skips`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(concat(h, skips.pop()), emb))
        return h if self.resample is None else self.resample(h)


class UNet(nn.Module):
    """A U-Net with residual blocks, self-attention at chosen levels, and skip connections from every block.

    Images of any size work: they are padded to a multiple of the total stride inside, and cropped again.
    """

    edge_layers = ("conv_in", "conv_out")
    """The layers that face the image, which optimisers may treat apart."""

    def __init__(self, config: UNetConfig, channels: int, out_channels: int, num_classes: int | None = None):
        super().__init__()
        self.config = config
        ch, c_emb = config.base_channels, 4 * config.base_channels
        widths = [ch * m for m in config.channel_mult]
        last = len(widths) - 1
        self.stride = 2**last

        def res(c_in: int, c_out: int) -> nn.Module:
            return ResBlock(c_in, c_out, c_emb, config.dropout, config.norm_groups, config.norm_eps)

        def attention(level: int) -> nn.Module:
            attends = level in config.attention_levels
            return AttentionBlock(widths[level], config.norm_groups, config.norm_eps) if attends else nn.Identity()

        self.time_mlp = nn.Sequential(
            init_fan_avg(nn.Linear(ch, c_emb)), nn.SiLU(), init_fan_avg(nn.Linear(c_emb, c_emb))
        )
        self.class_embedding = None if num_classes is None else ClassEmbedding(num_classes, c_emb)
        self.conv_in = init_fan_avg(nn.Conv2d(channels, ch, 3, padding=1))

        skips, c = [ch], ch
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            n = config.num_res_blocks
            blocks = [res(c if i == 0 else width, width) for i in range(n)]
            c = width
            skips += [c] * (n + (level < last))
            self.down.append(
                DownStage(blocks, [attention(level) for _ in range(n)], Downsample(c) if level < last else None)
            )

        self.middle1, self.middle2 = res(c, c), res(c, c)
        self.middle_attention = AttentionBlock(c, config.norm_groups, config.norm_eps)

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            n = config.num_res_blocks + 1
            blocks = [res((c if i == 0 else width) + skips.pop(), width) for i in range(n)]
            c = width
            self.up.append(UpStage(blocks, [attention(level) for _ in range(n)], Upsample(c) if level > 0 else None))

        self.norm_out = nn.GroupNorm(config.norm_groups, c, config.norm_eps)
        self.conv_out = init_fan_avg(nn.Conv2d(c, out_channels, 3, padding=1), scale=0.0)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """x: noisy images; t: the time as the Denoiser states it; label: classes, None for the null label."""
        emb = self.time_mlp(sinusoidal(t, self.config.base_channels).to(x.dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(label, len(x))
        h = self.conv_in(pad_to_multiple(x, self.stride))
        skips = [h]
        for stage in self.down:
            h = stage(h, emb, skips)
        h = self.middle2(self.middle_attention(self.middle1(h, emb)), emb)
        for stage in self.up:
            h = stage(h, emb, skips)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return crop_like(h, x, self.stride)
