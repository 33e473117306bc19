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


class UNet(nn.Module):
    """A U-Net with residual blocks, self-attention at chosen levels, and skip connections from every block.

    Images of any size work: they are padded to a multiple of the total stride inside, and cropped again.
    """

    def __init__(self, config: UNetConfig, channels: int, out_channels: int, num_classes: int | None = None):
        super().__init__()
        self.config = config
        ch, c_emb = config.base_channels, 4 * config.base_channels
        widths = [ch * m for m in config.channel_mult]
        self.stride = 2 ** (len(widths) - 1)

        def res(c_in: int, c_out: int) -> ResBlock:
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
            stage = nn.Module()
            stage.blocks, stage.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(config.num_res_blocks):
                stage.blocks.append(res(c, width))
                stage.attentions.append(attention(level))
                skips.append(c := width)
            stage.resample = Downsample(c) if level < len(widths) - 1 else None
            if stage.resample is not None:
                skips.append(c)
            self.down.append(stage)

        self.middle = nn.ModuleList([res(c, c), AttentionBlock(c, config.norm_groups, config.norm_eps), res(c, c)])

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stage = nn.Module()
            stage.blocks, stage.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(config.num_res_blocks + 1):
                stage.blocks.append(res(c + skips.pop(), width))
                stage.attentions.append(attention(level))
                c = width
            stage.resample = Upsample(c) if level > 0 else None
            self.up.append(stage)

        self.norm_out = nn.GroupNorm(config.norm_groups, c, config.norm_eps)
        self.conv_out = init_fan_avg(nn.Conv2d(c, out_channels, 3, padding=1), scale=0)

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
            for block, attention in zip(stage.blocks, stage.attentions, strict=True):
                h = attention(block(h, emb))
                skips.append(h)
            if stage.resample is not None:
                h = stage.resample(h)
                skips.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, emb)), emb)
        for stage in self.up:
            for block, attention in zip(stage.blocks, stage.attentions, strict=True):
                h = attention(block(concat(h, skips.pop()), emb))
            if stage.resample is not None:
                h = stage.resample(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return crop_like(h, x, self.stride)
