"""The bootstrap of the FID of each class, and of their mean."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Integer

from undye.metrics.bootstrap import fid_replicates
from undye.metrics.fid import ClassFid
from undye.metrics.intervals import Replicates
from undye.metrics.moments import Moments
from undye.metrics.resampling import Resampling


def class_replicates(
    rows: Sequence[ClassFid],
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n2"],
    reference_features: Float[np.ndarray, "m d2"],
    reference_labels: Integer[np.ndarray, " m2"],
    resampling: Resampling,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Replicates]:
    """Of `fid.per_class`, by their labels.

    Each class is drawn again by itself, as many images as it has: a model is told the class, so their number is no
    chance; and where it is (in a set of images), it says how sure the distance is, not what it is. Drawn again out of
    the whole set instead, a class would have now more images, now fewer, and with them a smaller or larger bias.
    Classes are independent of each other, so their weights are too.

    Args:
        rows: of `fid.per_class`; those whose covariance has not full rank are left out.
        features: of the images.
        labels: their classes.
        reference_features: of the reference.
        reference_labels: their classes.
        resampling: the same for two sets whose images of a class were drawn with the same seeds: those are paired.
        progress: called with (classes done, all).
    """
    found = {}
    for done, row in enumerate(rows):
        if row.value is not None and not row.rank_deficient:
            reference = Moments.of(reference_features[reference_labels == row.label])
            weights = resampling.weights(row.n, part=1 + row.label)  # 0 is the whole set
            replicates = fid_replicates(features[labels == row.label], reference, weights)
            if replicates is not None:
                found[row.label] = replicates
        if progress is not None:
            progress(done + 1, len(rows))
    return found


def mean_of(rows: Sequence[ClassFid], found: dict[int, Replicates]) -> Replicates | None:
    """Of the mean over the classes that have a distance; None unless all of them have replicates.

    Args:
        rows: of `fid.per_class`.
        found: of `class_replicates`.
    """
    counted = [row for row in rows if row.value is not None]
    if not counted or any(row.label not in found for row in counted):
        return None
    values = np.mean([found[row.label].values for row in counted], axis=0)
    return Replicates(float(np.mean([found[row.label].value for row in counted])), values)
