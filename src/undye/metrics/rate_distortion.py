"""Bits spent against the error of x_0 on the way from T to 0 (Ho et al. 2020, Fig. 5), and what an error costs.

A curve does not compare with another by itself; the bits at which the error has fallen to a given one do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from undye.metrics.intervals import Replicates

RMSES = (20.0, 10.0, 5.0, 2.0)
"""Errors whose rate a report has, on the scale 0..255: from a likeness to what the eye does not tell from the image."""
IMAGES = 256
"""Images at a time: bounds the memory."""


@dataclass(frozen=True)
class RateDistortion:
    """What x_t costs and how far the x_0 predicted from it is off, means over the images.

    Attributes:
        t: falling times, (K,).
        rate: bits/dim to send x_t: L_T and the KL terms of all steps down to t, (K,).
        rmse: root mean squared error of the predicted x_0 on the scale 0..255, (K,).
    """

    t: Int64[np.ndarray, " k"]
    rate: Float64[np.ndarray, " k"]
    rmse: Float64[np.ndarray, " k"]

    def rate_at(self, rmse: float) -> float | None:
        """Bits/dim at which the error has first fallen to `rmse`; None where it never does. See `rates_at`."""
        found = float(rates_at(self.rate[None], self.rmse[None], rmse)[0])
        return None if math.isnan(found) else found


def rates_at(
    rate: Float64[np.ndarray, "r k"], rmse: Float64[np.ndarray, "r k"], at: float
) -> Float64[np.ndarray, " r"]:
    """Bits/dim at which each curve has first fallen to an error.

    Between two times the rate is taken to be linear in the logarithm of the error, as that of a Gaussian is: each bit
    halves it (Cover and Thomas 2006, Eq. 10.36). A curve that begins below the error costs what its beginning does.

    Args:
        rate: of each curve along falling times, (R, K).
        rmse: its error, (R, K).
        at: the error, above 0, in the same unit.

    Returns:
        (R,); NaN where the error is never as small.
    """
    below = rmse <= at
    k = below.argmax(1)
    rows, before = np.arange(len(rate)), np.maximum(k - 1, 0)
    high, low = (np.log(np.maximum(rmse[rows, j], np.finfo(np.float64).tiny)) for j in (before, k))
    drop = np.where(k > 0, high - low, 1.0)  # above 0 where it counts: the one before lies above `at`
    share = np.where(k > 0, (high - math.log(at)) / drop, 1.0)
    found = rate[rows, before] + share * (rate[rows, k] - rate[rows, before])
    return np.where(below.any(1), found, np.nan)


@dataclass(frozen=True)
class ImageCurves:
    """The curves of N images, computed some at a time from what `BitsPerDim` holds.

    Attributes:
        prior: L_T in bits/dim, (N,).
        per_step: L_{t-1} at index t in bits/dim, (N, T+1).
        x_0_mse: at index t the squared error of x_0 in [-1, 1] units, (N, T+1).
        times: falling times of the curve, (K,).
    """

    prior: np.ndarray
    per_step: np.ndarray
    x_0_mse: np.ndarray
    times: np.ndarray

    def some(self, rows: slice) -> tuple[Float64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
        """Bits/dim to send x_t, and the RMSE on the scale 0..255, of some images at all times."""
        # to know x_t, all steps that end at t or above have been sent: those that start above t
        steps = self.per_step[rows][:, self.times]
        sent = steps.cumsum(1) - steps + self.prior[rows, None]
        return sent, 127.5 * np.sqrt(self.x_0_mse[rows][:, self.times])

    def mean(self) -> RateDistortion:
        """The curve of the means over the images."""
        rate, rmse = self.resampled(np.ones((1, len(self.prior)), dtype=np.int64))
        return RateDistortion(self.times, rate[0], rmse[0])

    def resampled(
        self, weights: Integer[np.ndarray, "r n"]
    ) -> tuple[Float64[np.ndarray, "r k"], Float64[np.ndarray, "r k"]]:
        """Rate and RMSE of each resample, means over its images.

        Args:
            weights: how often each image counts, (R, N), see `bootstrap.resample_weights`.
        """
        rate, rmse = (np.zeros((len(weights), len(self.times))) for _ in range(2))
        for start in range(0, len(self.prior), IMAGES):
            rows = slice(start, start + IMAGES)
            w = weights[:, rows].astype(np.float64)
            sent, error = self.some(rows)
            rate += w @ sent
            rmse += w @ error
        n = weights.sum(1, dtype=np.int64)[:, None]
        return rate / n, rmse / n

    def rate_replicates(self, weights: Integer[np.ndarray, "r n"], rmses: Sequence[float]) -> dict[float, Replicates]:
        """Of `RateDistortion.rate_at` for each error that the curve and all its resamples reach.

        Models that were asked about the same images share the weights, and so does an image's rate its error: what is
        hard for all of them cancels in a difference.

        Args:
            weights: of the images, (R, N), see `bootstrap.resample_weights`.
            rmses: the errors, on the scale 0..255.
        """
        curve, (rate, rmse) = self.mean(), self.resampled(weights)
        found = {}
        for at in rmses:
            value, values = curve.rate_at(at), rates_at(rate, rmse, at)
            if value is not None and np.isfinite(values).all():
                found[at] = Replicates.centred(value, values)
        return found
