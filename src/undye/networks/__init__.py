"""The networks: the only modules that hold weights."""

from torch import nn

from undye.config import CompactConfig, Dome272Config, LucidrainsConfig, NetworkConfig, UNetConfig
from undye.networks.compact import CompactUNet
from undye.networks.dome272 import Dome272UNet
from undye.networks.lucidrains import LucidrainsUNet
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
        case LucidrainsConfig():
            return LucidrainsUNet(config, channels, out_channels, num_classes, null_label)
        case Dome272Config():
            return Dome272UNet(config, channels, out_channels, num_classes, null_label)


__all__ = ["CompactUNet", "Dome272UNet", "LucidrainsUNet", "UNet", "build_network"]
