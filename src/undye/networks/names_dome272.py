"""What dome272's Diffusion-Models-pytorch calls its U-Net's weights."""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from undye.config import Dome272Config
from undye.networks.dome272 import Dome272UNet
from undye.networks.spec import nothing_left, take

MODULES = {"stem": "inc", "head": "outc", "class_embedding": "label_emb"}
MODULES |= {f"middle.{i}": f"bot{i + 1}" for i in range(3)}
for i in range(3):
    MODULES |= {f"down.{i}.block{k}": f"down{i + 1}.maxpool_conv.{k}" for k in (1, 2)}
    MODULES |= {f"up.{i}.block{k}": f"up{i + 1}.conv.{k - 1}" for k in (1, 2)}
    MODULES |= {f"{way}.{i}.emb_proj": f"{way}{i + 1}.emb_layer.1" for way in ("down", "up")}
    MODULES |= {f"down.{i}.attention": f"sa{i + 1}", f"up.{i}.attention": f"sa{i + 4}"}
CONVOLUTIONS = {"conv1": "double_conv.0", "norm1": "double_conv.1", "conv2": "double_conv.3", "norm2": "double_conv.4"}
ATTENTION = {"norm1": "ln", "proj": "mha.out_proj", "norm2": "ff_self.0", "fc1": "ff_self.1", "fc2": "ff_self.3"}


def dome272_name(name: str) -> str:
    """Their name of one of our weights."""
    ours = next(m for m in MODULES if name.startswith(f"{m}."))
    layer, _, kind = name.removeprefix(f"{ours}.").rpartition(".")
    if layer == "qkv":
        return f"{MODULES[ours]}.mha.in_proj_{kind}"
    layers = ATTENTION if ours.endswith("attention") else CONVOLUTIONS
    return ".".join(filter(None, (MODULES[ours], layers.get(layer, layer), kind)))


@lru_cache(maxsize=8)
def dome272_shapes(
    config: Dome272Config, channels: int, out_channels: int, num_classes: int | None
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of our network's weights, without making it."""
    with torch.device("meta"):
        network = Dome272UNet(config, channels, out_channels, num_classes)
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def from_dome272_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Their weights under our names.

    Args:
        weights: a state dict of their UNet or UNet_conditional.
        shapes: of the network's weights, see `dome272_shapes`.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    names = {name: dome272_name(name) for name in shapes}
    found = {name: take(weights, names[name], shape) for name, shape in shapes.items()}
    nothing_left(weights, set(names.values()))
    return found
