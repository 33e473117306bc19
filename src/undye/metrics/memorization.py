"""Whether a model has learned its training images by heart: how near samples lie to them.

The distance of a sample to the nearest training image says nothing by itself; that of images which the model has never
seen, to the same training images, says what is near. A model that generalises draws samples about as far away as they
are; one that copies draws nearer ones (Meehan et al. 2020, "A non-parametric test to detect data-copying in generative
models", whose test statistic this is: the Mann-Whitney z of the two sets of distances).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from undye.data.source import ImageSource
from undye.errors import UserError
from undye.metrics.neighbours import nearest_images

CHUNK = 4096
"""Training images compared at a time: bounds the memory."""
NEAR = 0.01
"""A sample counts as a near copy if it lies nearer to a training image than this fraction of the held-out images."""

FEWEST = 10
"""Samples, and held-out images, that say anything."""


@dataclass(frozen=True)
class Memorization:
    """Distances to the nearest training image: root mean square over the pixels, on the scale 0..255.

    Attributes:
        samples: of each sample, (N,).
        held_out: of each held-out image, (M,).
        nearest: which training image that is, for each sample, (N,).
    """

    samples: np.ndarray
    held_out: np.ndarray
    nearest: np.ndarray

    @property
    def z(self) -> float:
        """How many standard deviations the samples' ranks lie from those of the held-out images; below -3: copies."""
        n, m = len(self.samples), len(self.held_out)
        both = np.concatenate([self.samples, self.held_out])
        values, where, counts = np.unique(both, return_inverse=True, return_counts=True)
        ranks = (counts.cumsum() - (counts - 1) / 2)[where]  # equal distances share their ranks' mean
        u = ranks[:n].sum() - n * (n + 1) / 2
        ties = (counts**3 - counts).sum() / ((n + m) * (n + m - 1))
        spread = np.sqrt(n * m / 12 * (n + m + 1 - ties))
        return float((u - n * m / 2) / spread) if spread > 0 and len(values) > 1 else 0.0

    @property
    def near_by_chance(self) -> float:
        """What `near_copies` is on average where nothing is copied: `NEAR`, and more with few held-out images."""
        m = len(self.held_out)
        return (1 + NEAR * (m - 1)) / (m + 1)

    @property
    def is_near(self) -> np.ndarray:
        """Which of the samples are near copies, (N,): nearer than all but 1 % of the held-out images."""
        return self.samples < np.quantile(self.held_out, NEAR)

    @property
    def near_copies(self) -> float:
        """The fraction of samples that lie nearer than all but 1 % of the held-out images do; see `near_by_chance`."""
        return float(self.is_near.mean())

    @property
    def copies_beyond_chance(self) -> float:
        """By how much `near_copies` is above `near_by_chance`, at least 0.

        A share below that of chance is no merit: noise has no near copies at all.
        """
        return max(self.near_copies - self.near_by_chance, 0.0)

    @property
    def ranks(self) -> np.ndarray:
        """Of each sample, (N,): the fraction of held-out images that lie nearer than it; of equally near ones half."""
        unseen = np.sort(self.held_out)
        below, up_to = (np.searchsorted(unseen, self.samples, side=side) for side in ("left", "right"))
        return (below + up_to) / (2 * len(unseen))

    @property
    def farther_than_unseen(self) -> float:
        """How often a sample lies farther from the training images than an unseen image does: 1/2 where they are alike.

        The statistic of `z` (Mann-Whitney's U over n m) in units that do not grow with the number of images.
        """
        return float(self.ranks.mean())


def check_unseen(held_out: ImageSource, train: ImageSource) -> None:
    """Find held-out images that cannot be compared with before any sample is drawn.

    Raises:
        UserError: for too few of them, or of another shape than the training images.
    """
    _check_shape("held-out images", (*held_out.image_size, held_out.channels), train)
    if len(held_out) < FEWEST:
        raise UserError(f"memorization needs at least {FEWEST} held-out images, {held_out.name} has {len(held_out)}")


def _check_shape(name: str, shape: tuple[int, ...], train: ImageSource) -> None:
    expected = (*train.image_size, train.channels)
    if shape != expected:
        raise UserError(f"the {name} are {shape}, the training images {expected}: give the same data")


def memorization(
    samples: UInt8[np.ndarray, "n h w c"],
    train: ImageSource,
    held_out: UInt8[np.ndarray, "m h2 w2 c2"],
    progress: Callable[[int, int], None] | None = None,
) -> Memorization:
    """Compare samples and held-out images with all training images.

    Args:
        samples: drawn from the model.
        train: what it was trained on.
        held_out: images of the same kind that it was not trained on.
        progress: called with (training images done, all).

    Raises:
        UserError: if their shapes differ, or one of the sets is too small to say anything.
    """
    for name, images in (("samples", samples), ("held-out images", held_out)):
        _check_shape(name, images.shape[1:], train)
    if min(len(samples), len(held_out)) < FEWEST:
        raise UserError(f"memorization needs at least {FEWEST} samples and {FEWEST} held-out images: raise --n")
    found = nearest_images(np.concatenate([samples, held_out]), train, 1, progress, CHUNK)
    distances, n = found.distances[:, 0], len(samples)
    return Memorization(distances[:n], distances[n:], found.indices[:n, 0])


def closest_pairs(
    result: Memorization, samples: UInt8[np.ndarray, "n h w c"], train: ImageSource, pairs: int = 8
) -> UInt8[np.ndarray, "k h w c"]:
    """The samples nearest to a training image, each followed by that image: for a grid of two columns."""
    order = np.argsort(result.samples)[:pairs]
    images = train.images(result.nearest[order])
    return np.stack([samples[order], images], axis=1).reshape(-1, *samples.shape[1:])
