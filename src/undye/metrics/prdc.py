"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) in a feature space.

A set's manifold is the union of balls about its images, each as large as the distance to the k-th nearest other image
of the set. Precision: the share of samples in the reference's manifold; recall: the share of the reference in the
samples'. Density counts the reference's balls about a sample, over k; coverage is the share of the reference's balls
that hold a sample. One outlier's large ball raises precision and recall, not density and coverage.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undye.errors import UserError
from undye.metrics.moments import check_features

BLOCK = 1024
"""Rows and columns of the distance matrices that are there at a time: bounds the memory."""
ROUNDING = 1e-12
"""Squared distances this close, relative to the largest squared norm, are equal: on the edge of a ball is in it."""


@dataclass(frozen=True)
class Prdc:
    """What each image adds; the four numbers are its means.

    Attributes:
        in_manifold: whether each sample is in the reference's manifold, (n,).
        recalled: whether each reference image is in the samples' manifold, (m,).
        balls: in how many of the reference's balls each sample is, over k, (n,).
        covered: whether each reference image's ball holds a sample, (m,).
    """

    in_manifold: np.ndarray
    recalled: np.ndarray
    balls: np.ndarray
    covered: np.ndarray

    @property
    def precision(self) -> float:
        """Share of the samples that look real."""
        return float(self.in_manifold.mean())

    @property
    def recall(self) -> float:
        """Share of the reference that the samples reach."""
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        """Precision that outliers do not inflate; about 1 for samples like the reference, and it may exceed 1."""
        return float(self.balls.mean())

    @property
    def coverage(self) -> float:
        """Recall that outliers do not inflate."""
        return float(self.covered.mean())


def prdc(
    features: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d2"],
    k_pr: int = 3,
    k_dc: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Prdc:
    """Compare the manifolds of samples and reference.

    All four depend on the sizes of the sets: compare only numbers of the same n and m (10,000 each, as a rule).

    Args:
        features: of the samples.
        reference: of the reference.
        k_pr: neighbours of precision and recall.
        k_dc: neighbours of density and coverage.
        progress: called with (rows of the distance matrices done, all).

    Raises:
        UserError: for no more images than neighbours on a side, or features that do not go together.
    """
    check_features(features, reference)
    n, m, most = len(features), len(reference), max(k_pr, k_dc)
    if min(k_pr, k_dc) < 1:
        raise UserError(f"the number of neighbours must be at least 1, got {min(k_pr, k_dc)}")
    if min(n, m) <= most:
        raise UserError(f"precision and recall need more than {most} images on each side, got {n} and {m}: give more")
    # about the reference's centre the norms are small, and little cancels in |x|^2 + |y|^2 - 2 x.y
    centre = reference.mean(0, dtype=np.float64)
    x, y = features - centre, reference - centre
    done, total = 0, 2 * n + m

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    x_2, y_2 = (x * x).sum(1), (y * y).sum(1)
    edge = ROUNDING * max(x_2.max(), y_2.max())
    own = radii(x, x_2, [k_pr], step)[:, 0] + edge
    pr, dc = (radii(y, y_2, [k_pr, k_dc], step) + edge).T
    in_manifold, recalled = np.zeros(n, dtype=bool), np.zeros(m, dtype=bool)
    balls, covered = np.zeros(n), np.zeros(m, dtype=bool)
    for i in _slices(n):
        for j in _slices(m):
            d = squared(x[i], y[j], x_2[i], y_2[j])
            in_manifold[i] |= (d <= pr[j]).any(1)
            recalled[j] |= (d <= own[i, None]).any(0)
            inside = d <= dc[j]
            balls[i] += inside.sum(1)
            covered[j] |= inside.any(0)
        step(i.stop - i.start)
    return Prdc(in_manifold, recalled, balls / k_dc, covered)


def radii(x: np.ndarray, x_2: np.ndarray, ks: list[int], step: Callable[[int], None]) -> np.ndarray:
    """The squared distances from each image to its k-th nearest other, (n, len(ks)); equal images count one by one."""
    most, out = max(ks), np.empty((len(x), len(ks)))
    for i in _slices(len(x)):
        best = np.full((i.stop - i.start, most), np.inf)
        for j in _slices(len(x)):
            d = squared(x[i], x[j], x_2[i], x_2[j])
            if i == j:
                np.fill_diagonal(d, np.inf)
            nearest = d if d.shape[1] <= most else np.partition(d, most - 1, axis=1)[:, :most]
            best = np.sort(np.concatenate([best, nearest], axis=1), axis=1)[:, :most]
        out[i] = best[:, [k - 1 for k in ks]]
        step(i.stop - i.start)
    return out


def squared(x: np.ndarray, y: np.ndarray, x_2: np.ndarray, y_2: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs, (n, m), float64, at least 0."""
    d = x @ y.T
    d *= -2
    d += x_2[:, None]
    d += y_2
    return np.maximum(d, 0, out=d)


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
