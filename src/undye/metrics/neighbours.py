"""The nearest neighbours of samples in the training data, by features and by pixels, and their picture."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from undye.data.source import ImageSource
from undye.errors import UserError
from undye.metrics.moments import check_features
from undye.pictures import GAP, make_grid

CHUNK = 4096
"""Images of the data compared at a time: bounds the memory."""
QUERIES = 1024
"""Samples compared at a time."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of each of q samples, the nearest first; of equally near ones the lower number.

    Attributes:
        indices: which images of the data, (q, k), int64.
        distances: how far, (q, k), float64.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest(
    queries: np.ndarray,
    total: int,
    rows_of: Callable[[Int64[np.ndarray, " m"]], np.ndarray],
    k: int = 5,
    progress: Callable[[int, int], None] | None = None,
    chunk: int = CHUNK,
) -> Neighbours:
    """The nearest rows by Euclidean distance, in one pass over the data.

    The search takes |x|^2 + |y|^2 - 2 x.y in float64 (of pixels in 0..255 exact); the distances of what it finds are
    computed again, without cancellation.

    Args:
        queries: (q, d).
        total: rows of the data.
        rows_of: gives rows of it, (m, d), by their numbers.
        k: neighbours of each query.
        progress: called with (rows of the data done, all).
        chunk: rows of the data at a time.

    Raises:
        UserError: for k below 1 or above the number of rows.
    """
    if not 1 <= k <= total:
        raise UserError(f"{k} nearest images cannot be found among {total}: ask for fewer, at least 1")
    q = len(queries)
    best, which = np.full((q, k), np.inf), np.full((q, k), -1, dtype=np.int64)
    for start in range(0, total, chunk):
        numbers = np.arange(start, min(start + chunk, total))
        rows = rows_of(numbers).astype(np.float64)
        square = (rows**2).sum(1)
        for first in range(0, q, QUERIES):
            some = slice(first, first + QUERIES)
            x = queries[some].astype(np.float64)
            d = (x**2).sum(1)[:, None] - 2 * x @ rows.T + square
            found = _smallest(d, k)
            both = np.concatenate([best[some], np.take_along_axis(d, found, 1)], axis=1)
            names = np.concatenate([which[some], numbers[found]], axis=1)
            order = _by_distance(both, names)[:, :k]
            best[some], which[some] = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
        if progress is not None:
            progress(int(numbers[-1]) + 1, total)
    distances = _exact(queries, rows_of, which)
    order = _by_distance(distances, which)
    return Neighbours(np.take_along_axis(which, order, 1), np.take_along_axis(distances, order, 1))


def _smallest(d: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k smallest of each row; which of several equal ones at the edge is left to the partition."""
    if k == 1:
        return d.argmin(1)[:, None]
    return np.argpartition(d, k - 1, axis=1)[:, :k] if k < d.shape[1] else np.tile(np.arange(d.shape[1]), (len(d), 1))


def _by_distance(distances: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.lexsort((numbers, distances), axis=1)


def _exact(queries: np.ndarray, rows_of: Callable[[np.ndarray], np.ndarray], which: np.ndarray) -> np.ndarray:
    out = np.empty(which.shape)
    for first in range(0, len(queries), QUERIES):
        some = slice(first, first + QUERIES)
        for j in range(which.shape[1]):
            rows = rows_of(which[some, j]).astype(np.float64)
            out[some, j] = np.sqrt(((queries[some].astype(np.float64) - rows) ** 2).sum(1))
    return out


def nearest_features(
    features: Float[np.ndarray, "q d"],
    reference: Float[np.ndarray, "n d2"],
    k: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """The nearest of the data by the Euclidean distance of their features.

    Args:
        features: of the samples.
        reference: of the data.
        k: neighbours of each sample.
        progress: called with (images of the data done, all).

    Raises:
        UserError: for features that do not go together, or fewer images than k.
    """
    check_features(features, reference)
    centre = reference.mean(0, dtype=np.float64)
    return nearest(features - centre, len(reference), lambda rows: reference[rows] - centre, k, progress)


def nearest_images(
    images: UInt8[np.ndarray, "q h w c"],
    source: ImageSource,
    k: int = 5,
    progress: Callable[[int, int], None] | None = None,
    chunk: int = CHUNK,
) -> Neighbours:
    """The nearest of the data by pixels: root mean square difference, on the scale 0..255.

    Args:
        images: the samples.
        source: the data.
        k: neighbours of each sample.
        progress: called with (images of the data done, all).
        chunk: images of the data at a time.

    Raises:
        UserError: for images of another shape than the data's, or fewer images than k.
    """
    check_shape(images, source)
    found = nearest(flat(images), len(source), lambda rows: flat(source.images(rows)), k, progress, chunk)
    return Neighbours(found.indices, found.distances / np.sqrt(images[0].size))


def flat(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n d"]:
    """Each image as a row of numbers."""
    return images.reshape(len(images), -1)


def check_shape(images: np.ndarray, source: ImageSource) -> None:
    """Raise a UserError for images of another shape than the data's."""
    shape = (*source.image_size, source.channels)
    if images.shape[1:] != shape or not len(images):
        raise UserError(
            f"the samples are {images.shape}, the images of {source.name} {shape}: give the same kind, some"
        )


def neighbour_picture(
    images: UInt8[np.ndarray, "q h w c"], source: ImageSource, neighbours: Neighbours, rows: int = 8
) -> UInt8[np.ndarray, "H W c"]:
    """A row for each of the first samples: the sample, a gap, and its neighbours, the nearest first.

    Args:
        images: the samples.
        source: the data.
        neighbours: of the samples, by features or pixels.
        rows: at most so many samples.

    Raises:
        UserError: for images of another shape than the data's.
    """
    check_shape(images, source)
    shown = images[:rows]
    k = neighbours.indices.shape[1]
    found = source.images(neighbours.indices[: len(shown)].reshape(-1))
    left, right = make_grid(shown, columns=1), make_grid(found, columns=k)
    gap = np.full((len(left), 2 * GAP, left.shape[2]), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)
