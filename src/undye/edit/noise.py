"""Noise that belongs to one result of an edit, not to a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from undye import keyed
from undye.keyed import Stream


@dataclass(frozen=True)
class EditNoise:
    """Standard normal draws for results named (image, variation): two results of one name share every draw.

    The k-th draw is a function of (seed, image, variation, k) alone, made on the CPU: neither the batch, nor the number
    of images or variations, nor the device changes a result.
    """

    seed: int
    keys: Sequence[tuple[int, int]]
    _draw: count = field(default_factory=count, repr=False, compare=False)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The next draw of each result, as `x` in shape, dtype and device."""
        shape, draw = tuple(x.shape[1:]), next(self._draw)
        # results that share a name share the draw: made once
        drawn = {key: keyed.normal(shape, self.seed, Stream.EDIT_NOISE, *key, draw) for key in set(self.keys)}
        return torch.stack([drawn[key] for key in self.keys]).to(x.dtype).to(x.device)
