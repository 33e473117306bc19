"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) in a feature space.

A set's manifold is the union of balls about its images, each as large as the distance to the k-th nearest other image
of the set. Precision: the share of samples in the reference's manifold; recall: the share of the reference in the
samples'. Density counts the reference's balls about a sample, over k; coverage is the share of the reference's balls
that hold a sample. One outlier's large ball raises precision and recall, not density and coverage.

How sure the four are of other samples: precision and density are means over the samples, each by itself. Recall and
coverage are not: one sample more or less opens or closes balls of the reference for all. What each sample adds to them
is what would be missing without it (the jackknife, Quenouille 1956; its variance errs on the large side, Efron and
Stein 1981).
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
    """What each image adds; the four numbers are means of the first four.

    Attributes:
        in_manifold: whether each sample is in the reference's manifold, (n,).
        recalled: whether each reference image is in the samples' manifold, (m,).
        balls: in how many of the reference's balls each sample is, over k, (n,).
        covered: whether each reference image's ball holds a sample, (m,).
        recall_losses: by how much the recall would fall without each sample, (n,).
        coverage_losses: by how much the coverage would, (n,).
    """

    in_manifold: np.ndarray
    recalled: np.ndarray
    balls: np.ndarray
    covered: np.ndarray
    recall_losses: np.ndarray
    coverage_losses: np.ndarray

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
    done, total = 0, n + 2 * m

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    x_2, y_2 = (x * x).sum(1), (y * y).sum(1)
    edge = ROUNDING * max(x_2.max(), y_2.max())
    # without one of its neighbours a sample's ball would reach to the next
    own, neighbours = nearest_others(x, x_2, min(k_pr + 1, n - 1), step)
    ball, wider = own[:, k_pr - 1, None] + edge, own[:, -1:] + edge
    pr, dc = (nearest_others(y, y_2, most, step)[0][:, [k_pr - 1, k_dc - 1]] + edge).T
    in_manifold, balls, covered = np.zeros(n, dtype=bool), np.zeros(n), np.zeros(m, dtype=bool)
    recalled, recall_losses, coverage_losses = np.zeros(m, dtype=bool), np.zeros(n), np.zeros(n)
    for j in _slices(m):
        recalling, covering = _Holders(n, j), _Holders(n, j)
        near: list[tuple[np.ndarray, np.ndarray]] = []
        for i in _slices(n):
            d = squared(x[i], y[j], x_2[i], y_2[j])
            in_manifold[i] |= (d <= pr[j]).any(1)
            inside = d <= dc[j]
            balls[i] += inside.sum(1)
            covering.add(i, inside)
            held = d <= ball[i]
            recalling.add(i, held)
            rows, columns = np.nonzero((d <= wider[i]) & ~held & (recalling.counts <= 1))
            near.append((rows + i.start, columns))
        covered[j], recalled[j] = covering.counts > 0, recalling.counts > 0
        coverage_losses += covering.losses()
        rows, columns = (np.concatenate(part) for part in zip(*near, strict=True))
        recall_losses += recalling.losses(neighbours[rows, :k_pr], columns)
        step(j.stop - j.start)
    return Prdc(in_manifold, recalled, balls / k_dc, covered, recall_losses / m, coverage_losses / m)


class _Holders:
    """Which samples hold the reference images `columns`, as far as it takes to know what is lost without one sample."""

    def __init__(self, n: int, columns: slice):
        self.n = n
        self.counts = np.zeros(columns.stop - columns.start, dtype=np.int64)
        self._sums = self.counts.copy()  # of the holders' numbers: of a single holder its number

    def add(self, rows: slice, held: np.ndarray) -> None:
        """Some samples more: whether each holds each image."""
        self.counts += held.sum(0)
        self._sums += np.arange(rows.start, rows.stop) @ held

    def losses(self, without: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        """How many images fewer would be held without each sample, (n,); fewer than none where it is in the way.

        Args:
            without: (p, k): without any of these k samples another one would hold ...
            columns: (p,) ... this image.
        """
        single, size = np.flatnonzero(self.counts == 1), len(self.counts)
        lost = self._sums[single] * size + single  # a pair (sample, image) as one number
        gained = np.empty(0, dtype=np.int64)
        if without is not None and columns is not None:
            instead = np.unique(without * size + columns[:, None])
            lost = np.setdiff1d(lost, instead, assume_unique=True)
            gained = instead[self.counts[instead % size] == 0]
        before, after = (np.bincount(pairs // size, minlength=self.n) for pairs in (lost, gained))
        return (before - after).astype(np.float64)


def nearest_others(
    x: np.ndarray, x_2: np.ndarray, k: int, step: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances from each image to its k nearest others, rising, (n, k), and which these are, (n, k).

    Equal images count one by one.
    """
    distances, which = np.empty((len(x), k)), np.empty((len(x), k), dtype=np.int64)
    for i in _slices(len(x)):
        best, names = np.full((i.stop - i.start, k), np.inf), np.full((i.stop - i.start, k), -1, dtype=np.int64)
        for j in _slices(len(x)):
            d = squared(x[i], x[j], x_2[i], x_2[j])
            if i == j:
                np.fill_diagonal(d, np.inf)
            found = np.tile(np.arange(d.shape[1]), (len(d), 1))
            if d.shape[1] > k:
                found = np.argpartition(d, k - 1, axis=1)[:, :k]
            both = np.concatenate([best, np.take_along_axis(d, found, 1)], axis=1)
            numbers = np.concatenate([names, found + j.start], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :k]
            best, names = np.take_along_axis(both, order, 1), np.take_along_axis(numbers, order, 1)
        distances[i], which[i] = best, names
        step(i.stop - i.start)
    return distances, which


def squared(x: np.ndarray, y: np.ndarray, x_2: np.ndarray, y_2: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs, (n, m), float64, at least 0."""
    d = x @ y.T
    d *= -2
    d += x_2[:, None]
    d += y_2
    return np.maximum(d, 0, out=d)


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
