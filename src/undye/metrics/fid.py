"""The Frechet distance between Gaussians fitted to features (FID, Heusel et al. 2017), and what its sample size does.

On features of Inception's pooling layer it is the FID; on a layer that still has places, sFID (Nash et al. 2021): the
features differ, the mathematics does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from undye import keyed
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics import fidelity
from undye.metrics.moments import Moments, check_features

NEARLY_SINGULAR = 1e-8
"""A smallest eigenvalue below this share of the largest: rounding in the root of A B is no longer small beside it."""
FLAG_BELOW = 10_000
"""A distance from fewer images than this is to be flagged: its bias is no longer small."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), Heusel et al. 2017, Eq. 6 (Dowson and Landau 1982), at any rank.

    What a report shows is `reported_distance`; this one serves intervals and extrapolation, which need its factors and
    its speed.

    The eigenvalues of A B are the squared singular values of F^T G for any factors A = F F^T, B = G G^T: so the trace
    of the root is the sum of singular values. Neither a root of a non-symmetric matrix is taken (its small eigenvalues
    come out complex), nor that of an eigenvalue that is rounding only.

    Args:
        a: of one set of images.
        b: of the other. A set of no more images than dimensions has a singular covariance: the distance is defined,
            exact and symmetric, but far above that of many images; see `Moments.rank_deficient`.

    Raises:
        UserError: if they are of different dimensions.
    """
    if a.dims != b.dims:
        raise UserError(f"features of {a.dims} and of {b.dims} numbers do not compare: use one network for both")
    root = np.linalg.svd(factor(a).T @ factor(b), compute_uv=False).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.cov) + np.trace(b.cov) - 2 * root)


def reported_distance(a: Moments, b: Moments) -> float:
    """The distance that a report shows: torch-fidelity's, or `frechet_distance` where a covariance is nearly singular.

    Few images make it so, or features that depend on each other. torch-fidelity's roots of what rounding leaves of
    eigenvalues that are 0 then change the distance by 1e-5 of it.

    Args:
        a: of one set of images.
        b: of the other, of the same dimension.
    """
    spectra = (np.linalg.eigvalsh(m.cov) for m in (a, b))
    singular = any(m.rank_deficient for m in (a, b)) or any(s[0] <= NEARLY_SINGULAR * s[-1] for s in spectra)
    return frechet_distance(a, b) if singular else fidelity.frechet_distance(a, b)


def factor(moments: Moments) -> np.ndarray:
    """F, (D, r), with F F^T the covariance and r its rank, which n - 1 bounds.

    Eigenvalues within rounding of 0 are left out: the roots of what rounding leaves of a 0, 1e-8 each, would add up.
    """
    values, vectors = np.linalg.eigh(moments.cov)
    above = values > max(values[-1], 0) * moments.dims * np.finfo(np.float64).eps
    above[: max(0, moments.dims - (moments.n - 1))] = False  # ascending order
    return vectors[:, above] * np.sqrt(values[above])


def expected_bias(a: Moments, b: Moments, n: int | None = None) -> float:
    """How much too large the distance of `n` images is on average: E[FID(n)] - FID(infinity), to first order in 1/n.

    Let the features be Gaussian, B the reference's covariance, and s_i the singular values of A^(1/2) B^(1/2). The mean
    of n images adds tr(A)/n to the distance. Their covariance scatters about A as a Wishart matrix: in the eigenbasis
    of (B^(1/2) A B^(1/2))^(1/2) the scatter Delta has E Delta_ij^2 = s_i^2 s_j^2 (1 + [i = j]) / (n - 1). To second
    order in it, -2 tr(.)^(1/2) adds 1/2 sum_ij Delta_ij^2 / (s_i s_j (s_i + s_j)): the root is concave. Together

        bias = tr(A)/n + 1/(2 (n - 1)) (sum_ij s_i s_j / (s_i + s_j) + 1/2 sum_i s_i).

    It holds where n is several times the dimension that carries the variance. The reference's own n adds
    `expected_bias(b, a)`, the same for all that is compared with it.

    Args:
        a: of the images.
        b: of the reference.
        n: number of images; None: as many as `a` is of.

    Raises:
        UserError: for different dimensions, or n below 2.
    """
    if a.dims != b.dims:
        raise UserError(f"features of {a.dims} and of {b.dims} numbers do not compare: use one network for both")
    n = a.n if n is None else n
    if n < 2:
        raise UserError(f"a covariance needs at least 2 images, got {n}: give more")
    s = np.linalg.svd(factor(a).T @ factor(b), compute_uv=False)
    s = s[s > 0]
    pairs = (np.outer(s, s) / np.add.outer(s, s)).sum()
    return float(np.trace(a.cov) / n + (pairs + s.sum() / 2) / (2 * (n - 1)))


@dataclass(frozen=True)
class Extrapolation:
    """FID(n) = value + slope / n, fitted.

    Attributes:
        value: the distance that infinitely many images would have, to this reference.
        slope: images times distance; slope / n is the bias that n images bring.
        r2: share of the variance of `values` that the line explains; 1 for two points.
        ns: number of images of each point, falling.
        values: the mean distance of subsets of that many.
    """

    value: float
    slope: float
    r2: float
    ns: tuple[int, ...]
    values: tuple[float, ...]


def fid_infinity(
    features: Float[np.ndarray, "n d"],
    reference: Moments,
    seed: int = 0,
    parts: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Extrapolation | None:
    """FID-infinity (Chong and Forsyth 2020): the distances of subsets, extrapolated linearly in 1/n.

    The subsets of one size are the shares of a shuffled set that is dealt out evenly: all of it, its halves, its
    thirds ... Each size so uses every image once, and the chance of the set itself, which is the same in all sizes,
    does not tilt the line as it does where each size draws its own images.

    Args:
        features: of the images.
        reference: of the reference.
        seed: names the shuffles.
        parts: the most shares; fewer where a share would have less than twice as many images as dimensions, where the
            bias is no longer linear in 1/n, but two at least.
        progress: called with (distances done, all).

    Returns:
        The fit; None where half the images are no more than the dimensions, of which nothing can be extrapolated.

    Raises:
        UserError: for features that do not fit the reference.
    """
    check_features(features)
    n, dims = features.shape
    if n // 2 <= dims:
        return None
    counts = range(1, max(2, min(parts, n // (2 * dims))) + 1)
    total, done, ns, values = sum(counts), 0, [], []
    for count in counts:
        order = keyed.permutation(n, seed, Stream.METRIC_SUBSETS, 0, count)
        found = []
        for rows in np.array_split(order, count):
            found.append(frechet_distance(Moments.of(features[np.sort(rows)]), reference))
            done += 1
            if progress is not None:
                progress(done, total)
        ns.append(n / count)
        values.append(float(np.mean(found)))
    x, y = 1 / np.array(ns), np.array(values)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    value = float(y.mean() - slope * x.mean())
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - float(((y - value - slope * x) ** 2).sum() / spread) if spread > 0 else 1.0
    return Extrapolation(value, slope, r2, tuple(round(k) for k in ns), tuple(values))


@dataclass(frozen=True)
class ClassFid:
    """The distance of one class.

    Attributes:
        label: which.
        n: its images.
        reference_n: the reference's images of it.
        value: the distance; None where either has fewer than two images.
        rank_deficient: whether either has too few images for a covariance of full rank: not to be trusted.
    """

    label: int
    n: int
    reference_n: int
    value: float | None
    rank_deficient: bool


def per_class(
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n2"],
    reference_features: Float[np.ndarray, "m d2"],
    reference_labels: Integer[np.ndarray, " m2"],
) -> list[ClassFid]:
    """The distance of each class to the reference's images of that class, in the order of the labels.

    Args:
        features: of the images.
        labels: the classes that they were asked for.
        reference_features: of the reference.
        reference_labels: their classes.

    Raises:
        UserError: if not every image has a label, or the features do not go together.
    """
    check_features(features, reference_features)
    if len(labels) != len(features) or len(reference_labels) != len(reference_features):
        raise UserError("the distance of each class needs one label for every image, in both sets")
    out = []
    for label in np.union1d(labels, reference_labels):
        a, b = features[labels == label], reference_features[reference_labels == label]
        enough = min(len(a), len(b)) >= 2
        deficient = min(len(a), len(b)) <= features.shape[1]
        value = reported_distance(Moments.of(a), Moments.of(b)) if enough else None
        out.append(ClassFid(int(label), len(a), len(b), value, deficient))
    return out
