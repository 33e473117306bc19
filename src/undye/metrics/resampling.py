"""The bootstrap of numbers that need no features: means and medians of one value per image."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from undye.metrics.bootstrap import resample_sums, resample_weights
from undye.metrics.intervals import Replicates


@dataclass(frozen=True)
class Resampling:
    """Which resamples a measurement draws: `bootstrap.resample_weights`, but for the number of images.

    Attributes:
        resamples: how many.
        seed: names them.
        draw: two sets with the same one are paired.
    """

    resamples: int
    seed: int = 0
    draw: int = 0

    def weights(self, n: int, part: int = 0) -> Integer[np.ndarray, "r n"]:
        """How often each of n images counts in each resample, (R, n); `part` names another part of the set.

        Raises:
            UserError: for fewer than two images or resamples.
        """
        return resample_weights(n, self.resamples, self.seed, self.draw, part)


def mean_replicates(values: Float[np.ndarray, " n"], weights: Integer[np.ndarray, "r n"]) -> Replicates:
    """Of the mean of one value per image.

    Args:
        values: of the images.
        weights: how often each counts, see `bootstrap.resample_weights`.
    """
    mean = float(values.mean())
    return Replicates.centred(mean, mean + resample_sums(weights, values - mean) / len(values))


def median_replicates(values: Float[np.ndarray, " n"], weights: Integer[np.ndarray, "r n"]) -> Replicates:
    """Of the median of one value per image (Efron 1979, section 3).

    Args:
        values: of the images.
        weights: how often each counts, see `bootstrap.resample_weights`.
    """
    n, order = len(values), np.argsort(values, kind="stable")
    # the two in the middle of each resample, without making it; of an odd number they are one
    middle = np.array([(n - 1) // 2, n // 2])
    found = [
        values[order[np.searchsorted(row[order].cumsum(dtype=np.int64), middle, side="right")]].mean()
        for row in weights
    ]
    return Replicates.centred(float(np.median(values)), np.array(found))
