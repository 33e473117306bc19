"""Linear measurements of an image with their pseudo-inverses: what DDNM needs, and nothing else."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as everywhere in undye: see `undye.data.colour`."""


@runtime_checkable
class Operator(Protocol):
    """A linear map A with A A^+ = I."""

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        ...

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y."""
        ...

    def plain(self, y: Tensor) -> Tensor:
        """An image within [-1, 1] with A x = y, all values that one measured value sees being equal."""
        ...

    def least(self, x: Tensor) -> Tensor:
        """For each value of an image the least of those that are measured together with it."""
        ...

    def quantise(self, x: Float[Tensor, "n c h w"], y: UInt8[np.ndarray, "n i j k"]) -> UInt8[np.ndarray, "n h w c"]:
        """Images to pixels such that A of the pixels is y again, if A x is y."""
        ...


@dataclass(frozen=True)
class AveragePool:
    """Mean over squares of factor x factor pixels; A^+ repeats each value."""

    factor: int

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        """The small image."""
        return F.avg_pool2d(x, self.factor)

    def pinv(self, y: Float[Tensor, "n c i j"]) -> Float[Tensor, "n c h w"]:
        """The small image enlarged by repetition."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def plain(self, y: Float[Tensor, "n c i j"]) -> Float[Tensor, "n c h w"]:
        """The same."""
        return self.pinv(y)

    def least(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Over each square."""
        return self.pinv(-F.max_pool2d(-x, self.factor))

    def quantise(self, x: Float[Tensor, "n c h w"], y: UInt8[np.ndarray, "n i j c"]) -> UInt8[np.ndarray, "n h w c"]:
        """Rounds each square to the sum that it must have: most down, those with the largest remainders up."""
        f = self.factor
        n, c, height, width = x.shape
        levels = ((x.double().cpu().clamp(-1, 1) + 1) * 127.5).numpy()
        # (n, c, squares down, squares across, pixels of the square)
        squares = levels.reshape(n, c, height // f, f, width // f, f).transpose(0, 1, 2, 4, 3, 5)
        flat = squares.reshape(n, c, height // f, width // f, f * f)
        low = np.floor(flat + 1e-6)
        missing = f * f * y.transpose(0, 3, 1, 2).astype(np.float64)[..., None] - low.sum(-1, keepdims=True)
        order = np.argsort(np.argsort(low - flat, axis=-1, kind="stable"), axis=-1, kind="stable")
        whole = np.clip(low + (order < missing), 0, 255).astype(np.uint8)
        back = whole.reshape(n, c, height // f, width // f, f, f).transpose(0, 1, 2, 4, 3, 5)
        return back.reshape(n, c, height, width).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Grey:
    """Luma of a colour image; A^+ gives the colour of least norm with that luma."""

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """The grey image."""
        return (x * self._weights(x)).sum(1, keepdim=True)

    def pinv(self, y: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
        """A^T (A A^T)^-1 y."""
        weights = self._weights(y)
        return y * weights / weights.square().sum()

    def plain(self, y: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The grey image in three channels."""
        return y.expand(-1, 3, -1, -1)

    def least(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Over the channels."""
        return x.amin(1, keepdim=True).expand_as(x)

    def quantise(self, x: Float[Tensor, "n 3 h w"], y: UInt8[np.ndarray, "n h w 1"]) -> UInt8[np.ndarray, "n h w 3"]:
        """Rounds to the pixel near x, each channel up or down, whose luma is y and which is nearest."""
        levels = ((x.double().cpu().clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
        best, least = np.rint(levels), np.full((*levels.shape[:3], 1), np.inf)
        for step in np.ndindex(4, 4, 4):
            candidate = np.floor(levels) + np.array(step) - 1
            off = np.abs(candidate @ np.array(LUMA)[:, None] - y) > 0.499
            outside = ((candidate < 0) | (candidate > 255)).any(-1, keepdims=True)
            cost = np.square(candidate - levels).sum(-1, keepdims=True) + 1e6 * off + 1e9 * outside
            best, least = np.where(cost < least, candidate, best), np.minimum(cost, least)
        return best.astype(np.uint8)

    @staticmethod
    def _weights(x: Tensor) -> Tensor:
        return torch.tensor(LUMA, dtype=torch.float64).to(x.dtype).to(x.device).view(1, 3, 1, 1)
