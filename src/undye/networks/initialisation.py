"""How the layers of the U-Net start."""

import math
from typing import TypeVar

from torch import nn

from undye.config import InitName

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def initialise(layer: Layer, kind: InitName, last: bool = False) -> Layer:
    """Give a new layer the start that `UNetConfig.init` names; `last`: it ends a residual branch or the network."""
    match kind:
        case "fan_avg":
            return init_fan_avg(layer, scale=0.0 if last else 1.0)
        case "torch_zero":
            return init_zero(layer) if last else layer
        case "torch":
            return layer


def init_fan_avg(layer: Layer, scale: float = 1.0) -> Layer:
    """Uniform weights of variance scale / mean(fan_in, fan_out), zero bias: the original code's `default_init`.

    Its scale of 0 means 1e-10: the last layer of each residual branch starts at nearly, but not exactly, nothing.
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def init_zero(layer: Layer) -> Layer:
    """Zero weights and bias: a residual branch begins as the identity, the network's output as zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
