"""Mean and covariance of features, in float64, from chunks in any order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undye.errors import UserError

ROWS = 4096
"""Images taken at a time: bounds the memory beside the features' own."""


@dataclass(frozen=True)
class Moments:
    """The Gaussian that the Frechet distance sees in a set of features.

    Attributes:
        n: how many images.
        mean: (D,), float64.
        cov: (D, D), float64, unbiased (divided by n - 1).
    """

    n: int
    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "Moments":
        """Those of features that are all here.

        Raises:
            UserError: for fewer than two images, or features that are not finite.
        """
        sums = MomentSums()
        sums.add(features)
        return sums.moments()

    @property
    def dims(self) -> int:
        """Numbers per image, D."""
        return len(self.mean)

    @property
    def rank_deficient(self) -> bool:
        """Whether there are too few images for a covariance of full rank: distances between such are far too large."""
        return self.n <= self.dims


class MomentSums:
    """Collects moments chunk by chunk; its memory does not grow with the images.

    Sums are kept about the mean so far and moved as it moves (Chan, Golub and LeVeque 1979, "Updating formulae and a
    pairwise algorithm for computing sample variances"): nothing large cancels, so the result depends on order and
    chunks no more than float64 rounds.

    Attributes:
        n: images so far.
        mean: (D,), their mean; None before the first.
        scatter: (D, D), the sum of (x - mean)(x - mean)^T; None before the first.
    """

    def __init__(self):
        self.n = 0
        self.mean: np.ndarray | None = None
        self.scatter: np.ndarray | None = None

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Take in more images, any number of them.

        Raises:
            UserError: for features of another length, or not finite.
        """
        check_features(features)
        for start in range(0, len(features), ROWS):
            x = features[start : start + ROWS].astype(np.float64)
            mean = x.mean(0)
            x -= mean
            self._merge(len(x), mean, x.T @ x)

    def _merge(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self.mean is None or self.scatter is None:
            self.n, self.mean, self.scatter = n, mean.copy(), scatter.copy()
            return
        if len(mean) != len(self.mean):
            raise UserError(
                f"features of {len(mean)} and of {len(self.mean)} numbers do not go together: use one network"
            )
        step, total = mean - self.mean, self.n + n
        self.scatter += scatter
        self.scatter += np.outer(step, step * (self.n * n / total))
        self.mean = self.mean + step * (n / total)
        self.n = total

    @classmethod
    def joined(cls, parts: "Sequence[MomentSums]") -> "MomentSums":
        """The sums of all parts' images: of several chunks or processes."""
        out = cls()
        for part in parts:
            if part.mean is not None and part.scatter is not None:
                out._merge(part.n, part.mean, part.scatter)
        return out

    def moments(self) -> Moments:
        """What was collected.

        Raises:
            UserError: for fewer than two images.
        """
        if self.n < 2 or self.mean is None or self.scatter is None:
            raise UserError(f"a covariance needs at least 2 images, got {self.n}: give more")
        return Moments(self.n, self.mean.copy(), self.scatter / (self.n - 1))


def check_features(features: np.ndarray, other: np.ndarray | None = None) -> None:
    """Catch features that cannot be measured.

    Args:
        features: should be (n, D) and finite.
        other: should be so too, with the same D.

    Raises:
        UserError: for the first thing wrong.
    """
    for x in (features,) if other is None else (features, other):
        if x.ndim != 2 or x.shape[1] == 0:
            raise UserError(f"features must be an array of (images, numbers), got the shape {x.shape}")
        if not all(np.isfinite(x[i : i + ROWS]).all() for i in range(0, len(x), ROWS)):
            raise UserError("some features are NaN or infinite: look at the images and at the feature network")
    if other is not None and other.shape[1] != features.shape[1]:
        raise UserError(
            f"features of {features.shape[1]} and of {other.shape[1]} numbers do not go together: use one network"
        )
