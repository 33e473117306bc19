"""The networks: the only modules that hold weights."""

from torch import nn

from undye.config import CompactConfig, NetworkConfig, UNetConfig
from undye.networks.compact import CompactUNet
from undye.networks.unet import UNet


def build_network(
    config: NetworkConfig, channels: int, out_channels: int, num_classes: int | None, null_label: bool = True
) -> nn.Module:
    """A network(x, t, label) with random weights; x (B, channels, H, W) -> (B, out_channels, H, W)."""
    match config:
        case UNetConfig():
            return UNet(config, channels, out_channels, num_classes, null_label)
        case CompactConfig():
            return CompactUNet(config, channels, out_channels, num_classes, null_label)


__all__ = ["CompactUNet", "UNet", "build_network"]
