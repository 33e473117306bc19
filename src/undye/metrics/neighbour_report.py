"""The training images nearest to some samples, in features and in pixels: numbers and a picture.

As in the appendix of Ho et al. 2020. The first samples are taken as they come, not the best ones. What was learned by
heart shows in pixels; what differs by a shift or a shade shows in features.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from undye.data.source import ImageSource
from undye.metrics.feature_files import FeatureFiles
from undye.metrics.findings import ProgressOf, ticker
from undye.metrics.intervals import Replicates, entry_of
from undye.metrics.neighbours import Neighbours, nearest_features, nearest_images, neighbour_picture
from undye.metrics.numbers import IN_FEATURES, IN_PIXELS
from undye.metrics.quality import Measured
from undye.metrics.resampling import Resampling, median_replicates
from undye.pictures import GAP, enlarge, save_png

SAMPLES = 64
"""Samples whose neighbours a report has."""
ROWS, NEAREST = 8, 5
"""Of the picture."""


def measure_neighbours(
    samples: ImageSource,
    sample_features: FeatureFiles,
    train: ImageSource,
    train_features: FeatureFiles,
    resampling: Resampling,
    progress: ProgressOf | None = None,
    picture: str | PathLike[str] | None = None,
) -> Measured:
    """The entry of a report, the bootstrap's replicates (none of a single sample), and the picture.

    Args:
        samples: the first `SAMPLES` are looked at.
        sample_features: theirs, of all of them.
        train: what the model was trained on.
        train_features: theirs.
        resampling: of the bootstrap over the samples that are looked at.
        progress: called with ("neighbours", done, all).
        picture: a PNG: each row a sample, its nearest images in features, and those in pixels.
    """
    rows = np.arange(min(SAMPLES, len(samples)))
    images, k = samples.images(rows), min(NEAREST, len(train))
    pixels = nearest_images(images, train, k=k, progress=ticker(progress, "neighbours"))
    features = nearest_features(np.asarray(sample_features.pooled[rows]), train_features.pooled, k=k)
    if picture is not None:
        save_png(enlarge(_picture(images[:ROWS], train, features, pixels)), Path(picture))
    replicates: dict[str, Replicates] = {}
    if len(rows) > 1:
        weights = resampling.weights(len(rows))
        replicates = {
            name: median_replicates(found.distances[:, 0], weights)
            for name, found in ((IN_FEATURES, features), (IN_PIXELS, pixels))
        }
    entry = {
        "n": len(rows), "train_images": len(train), "k": k,
        "median_nearest": {
            "features": float(np.median(features.distances[:, 0])),
            "pixels_rms_of_255": float(np.median(pixels.distances[:, 0])),
        },
        "intervals": {name: entry_of(replicates.get(name))["interval"] for name in (IN_FEATURES, IN_PIXELS)},
        "seed": resampling.seed, "draw": resampling.draw,
        "samples": [
            {"sample": name, "features": _row(train, features, i), "pixels": _row(train, pixels, i)}
            for i, name in enumerate(samples.names(rows))
        ],
    }  # fmt: skip
    return Measured(entry, replicates)


def _row(train: ImageSource, found: Neighbours, i: int) -> list[dict[str, Any]]:
    names = train.names(found.indices[i])
    return [{"image": name, "distance": float(d)} for name, d in zip(names, found.distances[i], strict=True)]


def _picture(images: np.ndarray, train: ImageSource, features: Neighbours, pixels: Neighbours) -> np.ndarray:
    """Both kinds of neighbours side by side: features on the left, pixels on the right."""
    left, right = (neighbour_picture(images, train, found, rows=len(images)) for found in (features, pixels))
    band = np.full((left.shape[0], 4 * GAP, left.shape[2]), 255, np.uint8)
    return np.concatenate([left, band, right], axis=1)
