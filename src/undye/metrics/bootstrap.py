"""The bootstrap (Efron 1979): each metric's number again and again, of samples drawn again with replacement.

Drawing again is done by weights: how often each image counts. The reference stays as it is, so an interval says how the
number would change with other samples of the same model, not with another reference.
"""

import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Integer

from undye import keyed
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.fid import factor, frechet_distance
from undye.metrics.fid_expansion import expand
from undye.metrics.inception_score import inception_score, split
from undye.metrics.intervals import Replicates, combined
from undye.metrics.kid import blocks as kernel_blocks
from undye.metrics.kid import check, symmetric_blocks, ticking
from undye.metrics.moments import ROWS, Moments, check_features
from undye.metrics.prdc import Prdc

RESAMPLED_DIMS = 256
"""Distances of more dimensions are not computed again for each resample (seconds each) but expanded to second order."""
TOGETHER = 25
"""Resamples whose covariances are summed in one pass over the features: bounds the memory."""


def resample_weights(
    n: int, resamples: int = 200, seed: int = 0, draw: int = 0, part: int = 0
) -> Integer[np.ndarray, "r n"]:
    """How often each of n images counts in each resample: multinomial, (R, n), summing to n in each row.

    Args:
        n: images.
        resamples: how many.
        seed: names the draws.
        draw: another number for another, independent set of images; the same for paired ones.
        part: another number for another part of the set that is drawn again by itself.

    Raises:
        UserError: for fewer than two images or resamples.
    """
    if n < 2 or resamples < 2:
        raise UserError(f"a bootstrap needs at least 2 images and 2 resamples, got {n} and {resamples}")
    out = np.empty((resamples, n), dtype=np.uint8)  # a count above 255 has a chance of 1e-507
    for r in range(resamples):
        out[r] = np.bincount(keyed.generator(seed, Stream.BOOTSTRAP, draw, r, part).integers(0, n, n), minlength=n)
    return out


def resample_sums(weights: Integer[np.ndarray, "r n"], values: np.ndarray) -> np.ndarray:
    """Each resample's sum of one number per image; a row at a time, for as float64 all weights take much room."""
    return np.array([row @ values for row in weights])


def fid_replicates(
    features: Float[np.ndarray, "n d"],
    reference: Moments,
    weights: Integer[np.ndarray, "r n"],
    progress: Callable[[int, int], None] | None = None,
) -> Replicates | None:
    """Of `fid.frechet_distance` to a reference.

    Up to `RESAMPLED_DIMS` dimensions the distance of each resample is computed: 200 of 10,000 images take about 6 s on
    a core for D = 256. Above, it is expanded to second order (see `fid_expansion`), which costs as much as a few
    distances: the first order follows the weights, the second is drawn from a normal distribution.

    Args:
        features: of the samples.
        reference: of the reference.
        weights: see `resample_weights`.
        progress: called with (resamples done, all).

    Returns:
        The replicates; None for no more images than dimensions: what a bootstrap of such says is not to be trusted.

    Raises:
        UserError: for features that do not fit the reference.
    """
    check_features(features)
    n, dims = features.shape
    if n <= dims:
        return None
    if dims > RESAMPLED_DIMS:
        about = expand(features, reference)
        # a noise of its own for each set, and the same for the same set
        own = keyed.generator(zlib.crc32(about.influences.tobytes()), Stream.BOOTSTRAP)
        second = about.bias + np.sqrt(about.second_order_variance) * own.standard_normal(len(weights))
        return combined(about.value, resample_sums(weights, about.influences) / n, second)
    value = frechet_distance(Moments.of(features), reference)
    root, constant = factor(reference), np.trace(reference.cov)
    # a resample's covariance is on average (n - 1)/n of the set's, which would hide part of the bias
    scale = (n / (n - 1)) ** 2
    values = np.empty(len(weights))
    for start in range(0, len(weights), TOGETHER):
        group = weights[start : start + TOGETHER]
        for r, (mean, scatter) in enumerate(_resampled_moments(features, reference.mean, group), start):
            cov = scale * (scatter - np.outer(mean, mean))
            eigenvalues = np.linalg.eigvalsh(root.T @ cov @ root)
            values[r] = mean @ mean + np.trace(cov) + constant - 2 * np.sqrt(np.clip(eigenvalues, 0, None)).sum()
        if progress is not None:
            progress(start + len(group), len(weights))
    first = resample_sums(weights, expand(features, reference).influences) / n
    return combined(value, first, values - value - first)


def _resampled_moments(
    features: Float[np.ndarray, "n d"], centre: np.ndarray, weights: Integer[np.ndarray, "r n"]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean of x and of x x^T in each resample, x counted from `centre`; some images at a time: flat in memory."""
    n, dims = features.shape
    sums = [(np.zeros(dims), np.zeros((dims, dims))) for _ in weights]
    for start in range(0, n, ROWS):
        x = features[start : start + ROWS].astype(np.float64) - centre
        for (mean, scatter), row in zip(sums, weights[:, start : start + ROWS], strict=True):
            drawn = np.flatnonzero(row)
            w = row[drawn] / n
            part = x[drawn]
            mean += w @ part
            part *= np.sqrt(w)[:, None]
            scatter += part.T @ part
    return sums


def kid_replicates(
    features: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d2"],
    weights: Integer[np.ndarray, "r n"],
    progress: Callable[[int, int], None] | None = None,
) -> Replicates:
    """Of `kid.kid`: the whole sets, in one pass over the kernel's matrices.

    Pairs of an image with itself, which a resample has and a sample has not, are left out.

    Args:
        features: of the samples.
        reference: of the reference.
        weights: see `resample_weights`.
        progress: called with (rows of the matrices done, all).

    Raises:
        UserError: for fewer than two images, or features that do not go together.
    """
    check(features, reference)
    n, m = len(features), len(reference)
    step = ticking(progress, 2 * n + m)
    w = np.concatenate([np.ones((1, n), weights.dtype), weights]).T  # the set itself, then its resamples
    own, to_own, to_reference, reference_own = np.zeros(w.shape[1]), np.zeros(n), np.zeros(n), 0.0
    for rows, columns, k in symmetric_blocks(features, step):
        if rows == columns:
            np.fill_diagonal(k, 0)
        own += (1 if rows == columns else 2) * (w[rows] * (k @ w[columns].astype(k.dtype))).sum(0)
        to_own[rows] += k.sum(1)
        if rows != columns:
            to_own[columns] += k.sum(0)
    for rows, _, k in kernel_blocks(features, reference, step):
        to_reference[rows] += k.sum(1)
    for rows, columns, k in symmetric_blocks(reference, step):
        reference_own += k.sum() - np.trace(k) if rows == columns else 2 * k.sum()
    pairs = n**2 - np.array([np.square(row, dtype=np.int64).sum() for row in w.T])
    with np.errstate(invalid="ignore"):  # of two images a resample may hold one twice: no pair, NaN
        own /= pairs
    values = own + reference_own / (m * (m - 1)) - 2 * resample_sums(w.T, to_reference) / (n * m)
    projection = to_own / (n - 1) - to_reference / m
    first = resample_sums(weights, projection - projection.mean()) * (2 / n)
    return combined(float(values[0]), first, values[1:] - values[0] - first)


def inception_score_replicates(
    logits: Float[np.ndarray, "n k"], weights: Integer[np.ndarray, "r n"], splits: int = 10, seed: int = 0
) -> Replicates:
    """Of `inception_score.inception_score`, with the same splits.

    Args:
        logits: of the samples.
        weights: see `resample_weights`.
        splits: as for the score.
        seed: as for the score.

    Raises:
        UserError: as the score.
    """
    log_p, parts = split(logits, splits, seed)
    p = np.exp(log_p)
    negative_entropy = (p * log_p).sum(1)
    scores = np.zeros(len(weights))
    for rows in parts:
        w = weights[:, rows].astype(np.float64)
        w[w.sum(1) == 0] = 1  # a split so small that a resample misses it
        w /= w.sum(1, keepdims=True)
        mean = w @ p[rows]
        entropy = -(mean * np.log(np.where(mean > 0, mean, 1))).sum(1)
        scores += np.exp(w @ negative_entropy[rows] + entropy) / len(parts)
    return Replicates(inception_score(logits, splits, seed).value, scores)


def prdc_replicates(result: Prdc, weights: Integer[np.ndarray, "r n"]) -> dict[str, Replicates]:
    """Of precision, recall, density and coverage, by these names.

    Precision and density are means over the samples, which are resampled. Recall and coverage are not made anew of each
    resample: among images that count twice neighbours are too near, and a third of the samples is missing. Their
    replicates are of first order, by the jackknife's influences: (n - 1) times what is lost without a sample.

    Args:
        result: of `prdc.prdc`.
        weights: of the samples, see `resample_weights`.
    """
    n = len(result.in_manifold)
    replicates = {
        name: Replicates(float(each.mean()), resample_sums(weights, each.astype(np.float64)) / n)
        for name, each in (("precision", result.in_manifold), ("density", result.balls))
    }
    for name, value, losses in (
        ("recall", result.recall, result.recall_losses), ("coverage", result.coverage, result.coverage_losses),
    ):  # fmt: skip
        influences = (n - 1) * (losses - losses.mean())
        replicates[name] = Replicates(value, value + resample_sums(weights, influences) / n)
    return replicates
