"""A U-Net together with the shape of its data: what other projects keep in one configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.unet import UNet


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """All that is needed to build a U-Net.

    Attributes:
        config: the network's settings.
        channels: of the images.
        out_channels: of the output; twice the images' for a learned variance.
        num_classes: class labels, None for an unconditional network.
        null_label: whether the table of classes has a row for no class.
        image_size: height and width that the network was made for, None if that is not said.
    """

    config: UNetConfig
    channels: int = 3
    out_channels: int = 3
    num_classes: int | None = None
    null_label: bool = True
    image_size: tuple[int, int] | None = None

    def build(self) -> UNet:
        """The network, with random weights."""
        return UNet(self.config, self.channels, self.out_channels, self.num_classes, self.null_label)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the network's weights, without making it."""
        with torch.device("meta"):
            return {name: tuple(w.shape) for name, w in self.build().state_dict().items()}


def take(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of another project's weights, as large as it must be; a leading or trailing 1 more or less is no matter.

    Raises:
        UserError: if it is missing or has other numbers.
    """
    if name not in weights:
        raise UserError(f"weight {name!r} is missing")
    tensor = weights[name]
    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise UserError(f"weight {name!r} holds {tensor.dtype}, not real numbers")
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise UserError(f"weight {name!r} has shape {tuple(tensor.shape)}, the model needs {shape}")
    return tensor.reshape(shape)


def nothing_left(weights: Mapping[str, Tensor], used: set[str]) -> None:
    """Raise a UserError if there are weights that belong to no part of the model."""
    if extra := sorted(set(weights) - used):
        raise UserError(f"weight {extra[0]!r} belongs to no part of the model ({len(extra)} in all)")
