"""Noise that belongs to a sample, not to a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from undye import keyed
from undye.keyed import Stream


@dataclass(frozen=True)
class SampleNoise:
    """Standard normal draws for the samples numbered `indices` of the seed `seed`.

    The k-th draw of sample i is a function of (seed, i, k) alone, made on the CPU: a sample does not depend on the
    batch it is in, the batch size, the device, or how many processes share the work.
    """

    seed: int
    indices: Sequence[int]
    _draw: count = field(default_factory=count, repr=False, compare=False)

    def draw(self, shape: tuple[int, ...], draw: int) -> Float[Tensor, "b c h w"]:
        """Draw number `draw` of each sample, of shape (C, H, W) each; float32 on the CPU."""
        return torch.stack([keyed.normal(shape, self.seed, Stream.SAMPLE_NOISE, int(i), draw) for i in self.indices])

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The next draw of each sample, as `x` in shape, dtype and device."""
        return self.draw(tuple(x.shape[1:]), next(self._draw)).to(x.dtype).to(x.device)
