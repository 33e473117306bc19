"""What the bootstrap's replicates of a number say: its interval, and whether two sets really differ in it.

Drawn-again sets hold images twice and so are poorer than the set itself: their distances are larger by about as much as
the set's is larger than that of infinitely many images. That bias of the bootstrap is measured (mean of the replicates
less the value) and taken out, once to have the interval of the number at its n, twice to have that of its limit.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from undye.errors import UserError


@dataclass(frozen=True)
class Interval:
    """Of a number at its sample size.

    Attributes:
        low: lower end.
        high: upper end.
        standard_error: standard deviation of the replicates.
        bias: by how much the number is too large at this sample size, as the bootstrap sees it.
        level: of confidence, such as 0.95.
    """

    low: float
    high: float
    standard_error: float
    bias: float
    level: float

    def unbiased(self, value: float) -> tuple[float, float, float]:
        """(value, low, high) for infinitely many samples."""
        return value - self.bias, self.low - self.bias, self.high - self.bias


@dataclass(frozen=True)
class Replicates:
    """A number and what it would have been in resamples.

    Attributes:
        value: the number.
        values: of each resample, (R,).
    """

    value: float
    values: np.ndarray

    @classmethod
    def centred(cls, value: float, values: np.ndarray) -> "Replicates":
        """Of a number without a bias, such as a mean or a median: what chance leaves of one is taken out.

        A median's replicates take few values, and their mean strays from it by chance alone: as a bias that is taken
        out it would call equals different in up to a fifth of the comparisons.
        """
        return cls(value, value + values - values.mean())

    @property
    def bias(self) -> float:
        """Of the resamples over the value: an estimate of the value's own bias."""
        return float(self.values.mean() - self.value)

    def interval(self, level: float = 0.95) -> Interval:
        """The percentile interval, moved by the bootstrap's bias so that it surrounds the value.

        Raises:
            UserError: unless 0 < level < 1.
        """
        low, high = _percentiles(self.values - self.bias, level)
        return Interval(low, high, float(self.values.std(ddof=1)), self.bias, level)


ROUNDING = 1e-7
"""A difference of no more than this share of the numbers is rounding's, however alike the resamples are."""


@dataclass(frozen=True)
class Difference:
    """Of the same number of two sets, a - b, each less its bias: as it would be for infinitely many samples.

    Attributes:
        value: the difference.
        low: lower end of its interval.
        high: upper end.
        standard_error: of the difference.
        p_value: share of resamples whose difference strays from `value` as far as 0 does.
        real: whether the interval excludes 0, p_value agrees, and it is more than rounding makes.
        level: of confidence.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p_value: float
    real: bool
    level: float


def difference(a: Replicates, b: Replicates, level: float = 0.95) -> Difference:
    """Whether two sets differ in a number.

    The comparison is paired if both were given the same weights, as sets drawn with the same seeds allow: what both
    have in common (the same noise, an odd share of one class) then cancels. It is unpaired if the weights are of
    different draws.

    Args:
        a: of one set.
        b: of the other.
        level: of confidence.

    Raises:
        UserError: for different numbers of resamples.
    """
    if a.values.shape != b.values.shape:
        raise UserError(f"{len(a.values)} and {len(b.values)} resamples do not compare: draw as many of both")
    value = (a.value - a.bias) - (b.value - b.bias)
    strays = a.values - b.values
    strays = strays - strays.mean()
    low, high = _percentiles(value + strays, level)
    p_value = (1 + (np.abs(strays) >= abs(value)).sum()) / (len(strays) + 1)
    # near the border the two may disagree; each alone calls more than 5 % of equals different
    real = (low > 0 or high < 0) and p_value <= 1 - level
    real = real and abs(value) > ROUNDING * max(abs(a.value), abs(b.value))
    return Difference(value, low, high, float(strays.std(ddof=1)), float(p_value), bool(real), level)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise UserError(f"a level of confidence lies between 0 and 1, got {level}")
    # the k-th of R values has k / (R + 1) below it on average: the usual k / R is too short with few resamples
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return float(low), float(high)


def entry_of(replicates: Replicates | None) -> dict[str, Any]:
    """The `interval` of a report's number, None where there is none."""
    if replicates is None or not np.isfinite(replicates.values).all():
        return {"interval": None}  # a resample of very few images may hold a single one many times
    return {"interval": {**asdict(replicates.interval()), "resamples": len(replicates.values)}}


def combined(value: float, first: np.ndarray, rest: np.ndarray) -> Replicates:
    """Replicates of a smooth number from the first order of each resample's error and the rest, with honest spread.

    The first order's gradient is taken at the sample, not at the truth, whose gradient is smaller: it even vanishes
    where the two sets are alike. With second-order errors Q = d^T H d / 2 of a d with covariance S, the gradient's own
    error H d adds tr(H S H S) = 2 Var Q to the variance on average; the first order is shrunk by as much.

    Args:
        value: the number.
        first: first-order errors, (R,).
        rest: what is left of each resample's error, (R,).
    """
    variance = first.var()
    share = np.sqrt(max(1 - 2 * rest.var() / variance, 0)) if variance > 0 else 0.0
    return Replicates(value, value + share * first + rest)
