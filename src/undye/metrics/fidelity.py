"""The numbers that torch-fidelity has the mathematics of, by its own functions, on features that undye has computed.

So that a number of a report is the number of that tool, and through it of the papers. What it does not have is
undye's: moments that are streamed, intervals, FID-infinity, the kernel distance of whole sets, density and coverage.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from undye.metrics.moments import ROWS, Moments

UNDERFLOW = -700.0
"""Log-probabilities below this, relative to the largest, are this: exp of less is 0, and 0 log 0 would be NaN."""
DISTANCES = 2**23
"""Distances that are there at a time: bounds the memory."""
BITS = 25
"""Of the longest feature vector in whole units: |x|^2 + |y|^2 - 2 x.y is then exact in float64, in any order."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID, Heusel et al. 2017, Eq. 6: the trace of the root by the eigenvalues of A B.

    For covariances that are far from singular; what rounding makes of eigenvalues that are 0 adds up (see
    `fid.reported_distance`).

    Args:
        a: of one set of images.
        b: of the other, of the same dimension.
    """
    statistics = ({"mu": m.mean, "sigma": m.cov} for m in (a, b))
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]


def inception_score(logits: Float[np.ndarray, "n k"], splits: int) -> tuple[float, float]:
    """(mean, standard deviation) of the splits' scores, Salimans et al. 2016; splits are taken in the order given."""
    x = torch.from_numpy(logits.astype(np.float64))
    x = (x - x.amax(1, keepdim=True)).clamp(min=UNDERFLOW)
    found = metric_isc.isc_features_to_metric(x, splits, shuffle=False)
    return found[metric_isc.KEY_METRIC_ISC_MEAN], found[metric_isc.KEY_METRIC_ISC_STD]


def kernel_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    """The unbiased squared discrepancy of the cubic kernel (Binkowski et al. 2018) of two sets of one size."""
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    both = (side.astype(np.float64) for side in (x, y))
    return float(metric_kid.kernel_mmd(*both, **kernel, kid_kernel_poly_coef0=1))


def precision_recall(
    features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"], k: int = 3
) -> tuple[float, float]:
    """(precision, recall), Kynkaanniemi et al. 2019, in float64.

    Features are rounded to whole multiples of 2^-25 or so of the longest one, which float32 hardly tells apart: so
    nothing else rounds, equal distances are equal, and an image on the edge of a ball is in it.

    Args:
        features: of the samples, more than k.
        reference: of the reference, more than k.
        k: the neighbour that a ball reaches to.
    """
    # about the reference's centre the norms are small, and so are the units
    centre = reference.mean(0, dtype=np.float64)
    parts = (side[i : i + ROWS] for side in (features, reference) for i in range(0, len(side), ROWS))
    longest = max(float(np.linalg.norm(part - centre, axis=1).max()) for part in parts)
    unit = 2.0 ** (math.frexp(longest)[1] - BITS)
    sides = (torch.from_numpy(_whole(side, np.rint(centre / unit) * unit, unit)) for side in (features, reference))
    found = metric_prc.prc_features_to_metric(
        *sides, prc_neighborhood=k, save_cpu_ram=True, verbose=False,
        prc_batch_size=max(1, DISTANCES // max(len(features), len(reference))),
    )  # fmt: skip
    # shares of whole images, whose means it takes in float32
    precision = round(found[metric_prc.KEY_METRIC_PRECISION] * len(features)) / len(features)
    return precision, round(found[metric_prc.KEY_METRIC_RECALL] * len(reference)) / len(reference)


def _whole(side: np.ndarray, centre: np.ndarray, unit: float) -> np.ndarray:
    """Features about `centre`, a multiple of `unit`, in whole units; a copy, and no other beside it."""
    x = side.astype(np.float64)
    x -= centre
    x /= unit
    return np.rint(x, out=x)
