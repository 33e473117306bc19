"""The kernel distance (KID, Binkowski et al. 2018): the squared maximum mean discrepancy of the cubic kernel.

k(x, y) = (x.y / D + 1)^3. The estimate is unbiased: its mean does not depend on the number of images, and it may be
below 0 where the sets are alike.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undye import keyed
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics import fidelity
from undye.metrics.moments import check_features

BLOCK = 1024
"""Rows and columns of the kernel's matrix that are there at a time: bounds the memory."""


@dataclass(frozen=True)
class Kid:
    """The unbiased estimate from all images.

    Attributes:
        value: the squared discrepancy, usually shown times 1000.
        standard_error: of drawing other samples, the reference staying as it is.
        n: samples.
    """

    value: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class KidSubsets:
    """The mean of unbiased estimates from subsets, as papers report it.

    Attributes:
        value: the mean.
        std: the subsets' standard deviation: it says how much a subset of that size scatters, nothing of how sure
            the value is.
        subset_size: images of each side in a subset.
        subsets: how many.
    """

    value: float
    std: float
    subset_size: int
    subsets: int


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 for all pairs, (n, m), Binkowski et al. 2018, Eq. 4; float64."""
    k = x.astype(np.float64) @ y.astype(np.float64).T
    k /= x.shape[1]
    k += 1
    return k * k * k


def kid(
    features: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d2"],
    progress: Callable[[int, int], None] | None = None,
) -> Kid:
    """The unbiased estimate from all images (Gretton et al. 2012, Eq. 3), in blocks.

    The standard error is that of a U-statistic with the kernel k(x, x') - g(x) - g(x'), where g is the mean over the
    reference: 4/n times the variance of its projection, and 2/(n (n-1)) times that of the rest, which alone remains
    where the sets are alike. A projection on a sample scatters itself, which adds twice the second, and is taken out.
    Time grows with (n + m)^2 D: 3 s on a core for 10,000 + 10,000 images and D = 256.

    Args:
        features: of the samples.
        reference: of the reference.
        progress: called with (rows of the kernel's matrices done, all).

    Raises:
        UserError: for fewer than two images, or features that do not go together.
    """
    check(features, reference)
    n, m = len(features), len(reference)
    steps = ticking(progress, 2 * n + m)
    to_own, squares, to_reference, own_sum = np.zeros(n), 0.0, np.zeros(n), 0.0
    for rows, columns, k in symmetric_blocks(features, steps):
        if rows == columns:
            np.fill_diagonal(k, 0)
            to_own[rows] += k.sum(1)
            squares += (k * k).sum()
        else:
            to_own[rows] += k.sum(1)
            to_own[columns] += k.sum(0)
            squares += 2 * (k * k).sum()
    for rows, _, k in blocks(features, reference, steps):
        to_reference[rows] += k.sum(1)
    for rows, columns, k in symmetric_blocks(reference, steps):
        own_sum += k.sum() - np.trace(k) if rows == columns else 2 * k.sum()
    pairs = n * (n - 1)
    value = to_own.sum() / pairs + own_sum / (m * (m - 1)) - 2 * to_reference.sum() / (n * m)
    projection = to_own / (n - 1) - to_reference / m
    mean = to_own.sum() / pairs
    rest = squares / pairs - 2 * ((to_own / (n - 1)) ** 2).mean() + mean**2
    second = 2 * max(rest, 0) / pairs
    first = max(4 * projection.var() / n - 2 * second, 0)
    return Kid(float(value), math.sqrt(first + second), n)


def kid_subsets(
    features: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d2"],
    subset_size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> KidSubsets:
    """The mean over random subsets of both sets, as Binkowski et al. 2018 and most papers report it.

    Args:
        features: of the samples.
        reference: of the reference.
        subset_size: images of each side in a subset, drawn without replacement.
        subsets: how many.
        seed: names the subsets.
        progress: called with (subsets done, all).

    Raises:
        UserError: for a subset size above a set's or below 2, or features that do not go together.
    """
    check(features, reference)
    fewest = min(len(features), len(reference))
    if not 2 <= subset_size <= fewest or subsets < 1:
        raise UserError(
            f"subsets of {subset_size} images cannot be drawn of {fewest}: give more images or smaller subsets"
        )
    values = np.empty(subsets)
    for i in range(subsets):
        x, y = (
            side[keyed.permutation(len(side), seed, Stream.METRIC_SUBSETS, 1 + j, i)[:subset_size]]
            for j, side in enumerate((features, reference))
        )
        values[i] = fidelity.kernel_distance(x, y)
        if progress is not None:
            progress(i + 1, subsets)
    return KidSubsets(float(values.mean()), float(values.std()), subset_size, subsets)


def check(features: np.ndarray, reference: np.ndarray) -> None:
    """Raise a UserError for sets that cannot be compared."""
    check_features(features, reference)
    if min(len(features), len(reference)) < 2:
        raise UserError("the kernel distance needs at least 2 images on each side: give more")


def blocks(x: np.ndarray, y: np.ndarray, step: Callable[[int], None]) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """(rows, columns, kernel) over the whole matrix; `step` is told the rows that are done."""
    for rows in _slices(len(x)):
        for columns in _slices(len(y)):
            yield rows, columns, kernel(x[rows], y[columns])
        step(rows.stop - rows.start)


def symmetric_blocks(x: np.ndarray, step: Callable[[int], None]) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """(rows, columns, kernel) over the diagonal and above: each block off it stands for two."""
    for rows in _slices(len(x)):
        for columns in _slices(len(x)):
            if columns.start >= rows.start:
                yield rows, columns, kernel(x[rows], x[columns])
        step(rows.stop - rows.start)


def ticking(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """A function that counts rows and reports them."""
    done = 0

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    return step


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
