"""From one resolution to the next: what stands between the levels of the U-Net."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from undye.config import InitName, PaddingName, UNetConfig
from undye.networks.initialisation import initialise
from undye.networks.resblock import ResBlock


class Downsample(nn.Module):
    """Stride-2 convolution: padded right and bottom, as TensorFlow's SAME on an even size, or on all sides."""

    def __init__(self, channels: int, padding: PaddingName = "right_bottom", init: InitName = "fan_avg"):
        super().__init__()
        self.padding = (0, 1, 0, 1) if padding == "right_bottom" else (1, 1, 1, 1)
        self.conv = initialise(nn.Conv2d(channels, channels, 3, stride=2), init)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
        """Halve height and width."""
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int, init: InitName = "fan_avg"):
        super().__init__()
        self.conv = initialise(nn.Conv2d(channels, channels, 3, padding=1), init)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Double height and width."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def halving() -> nn.Module:
    """Averages of 2x2 pixels."""
    return nn.AvgPool2d(2)


def doubling() -> nn.Module:
    """Each pixel four times."""
    return nn.Upsample(scale_factor=2.0, mode="nearest")


def downsampling(channels: int, c_emb: int, config: UNetConfig) -> nn.Module:
    """What `config.resample` puts after a level on the way down."""
    match config.resample:
        case "conv":
            return Downsample(channels, config.downsample_padding, config.init)
        case "resblock":
            return ResBlock(channels, channels, c_emb, config, halving())
        case "pool":
            return halving()


def upsampling(channels: int, c_emb: int, config: UNetConfig) -> nn.Module:
    """What `config.resample` puts after a level on the way up."""
    match config.resample:
        case "conv":
            return Upsample(channels, config.init)
        case "resblock":
            return ResBlock(channels, channels, c_emb, config, doubling())
        case "pool":
            return doubling()
