"""The small classifier whose penultimate layer is undye's own feature space: the network alone.

Inception's features answer to photographs; a classifier that was trained on the data's own classes answers to what
tells those images apart, on greyscale, on private data, and without a download. FID is then the Frechet distance in
its features, which is what Heusel et al. 2017 define for any such layer; its values compare within one network only.

Convolutions and one mean over places: 128 numbers come out, few enough for a covariance of full rank from a thousand
images. Images larger than `BASE` go through more halvings at the start, so that fine detail is seen by cheap layers,
and the rest costs the same for every size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from undye.errors import UserError

DIMS = 128
"""Of the pooled features."""
SPATIAL_CHANNELS, SPATIAL_SIDE = 7, 4
"""Of the spatial features: the first 7 channels, as Nash et al. 2021, in the middle of the network, on a grid of 4x4
means: 112 numbers, about as many as the pooled ones, like theirs."""
BASE = 48
"""Images of up to this many pixels on the longer side are seen as they are; each doubling costs a halving more."""
LARGEST, SMALLEST = 256, 8
"""Larger images (longer side) are shrunk to it; smaller ones (shorter side) are refused."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What rebuilds the network.

    Attributes:
        image_size: (height, width) of the images.
        channels: 1 or 3.
        num_classes: at least 2.
        width: half of it are the first layer's channels; the others have 2, 3 and 4 times as many.
    """

    image_size: tuple[int, int]
    channels: int
    num_classes: int
    width: int = 32

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or self.num_classes < 2 or self.width * 4 != DIMS:
            raise UserError(
                f"no classifier for {self.channels} channels, {self.num_classes} classes and width {self.width}: it "
                f"takes 1 or 3 channels, 2 or more classes and width {DIMS // 4}"
            )
        if min(self.image_size) < SMALLEST:
            raise UserError(f"images of {self.image_size} pixels are too small for features: {SMALLEST}x{SMALLEST}")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the network sees: `image_size`, the longer side at most `LARGEST`."""
        scale = min(1.0, LARGEST / max(self.image_size))
        height, width = (max(SMALLEST, round(side * scale)) for side in self.image_size)
        return height, width

    @property
    def halvings(self) -> int:
        """How often the images are halved before the part that all sizes share."""
        return max(0, math.ceil(math.log2(max(self.input_size) / BASE)))


class Classifier(nn.Module):
    """Convolutions (B, C, H, W) -> (B, 128) -> logits; input in [-1, 1]."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config, w = config, config.width
        blocks, before = [], config.channels
        for _ in range(config.halvings):
            blocks += [_block(before, w // 2, stride=2)]
            before = w // 2
        self.stem = nn.Sequential(
            *blocks, _block(before, w // 2), nn.MaxPool2d(2, ceil_mode=True), _block(w // 2, 2 * w)
        )
        self.middle = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), _block(2 * w, 3 * w))
        self.residual = _block(3 * w, 3 * w)
        self.last = _block(3 * w, DIMS, stride=2)
        self.head = nn.Linear(DIMS, config.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(pooled (B, 128), spatial (B, 112), logits (B, K)) of images in [-1, 1] of the size of `input_size`."""
        h = self.middle(self.stem(x))
        spatial = F.adaptive_avg_pool2d(h[:, :SPATIAL_CHANNELS], SPATIAL_SIDE).flatten(1)
        h = self.last(h + self.residual(h))
        pooled = h.mean(dim=(2, 3))
        return pooled, spatial, self.head(pooled)

    def fused(self) -> "Classifier":
        """The same function in eval mode, its normalisations folded into the convolutions: what is kept in a file."""
        self.eval()
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten cost no one's random numbers
            twin = Classifier(self.config)
        for name, module in self.named_modules():
            if isinstance(module, _Block):
                target = twin.get_submodule(name)
                assert isinstance(target, _Block)
                assert isinstance(module.norm, nn.BatchNorm2d)
                target.conv, target.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
        twin.head.load_state_dict(self.head.state_dict())
        return twin.eval().requires_grad_(False)

    @classmethod
    def empty(cls, config: ClassifierConfig) -> "Classifier":
        """A network as `fused` makes them, its weights yet to be filled in."""
        with torch.random.fork_rng(devices=[]):
            return cls(config).fused()


class _Block(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def _block(before: int, after: int, stride: int = 1) -> _Block:
    return _Block(before, after, stride)
