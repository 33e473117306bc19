"""Memorization as a report has it: the samples beside the training images, with the recipe."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from undye.data.source import ImageSource
from undye.metrics.findings import ProgressOf, ticker
from undye.metrics.intervals import Replicates, entry_of
from undye.metrics.likelihoods import chosen_rows
from undye.metrics.memorization import Memorization, closest_pairs, memorization
from undye.metrics.numbers import DISTANCE, FARTHER, NEAR_COPIES
from undye.metrics.quality import Measured
from undye.metrics.resampling import Resampling, mean_replicates, median_replicates
from undye.pictures import enlarge, make_grid, save_png


def measure_memorization(
    samples: ImageSource,
    train: ImageSource,
    held_out: ImageSource,
    resampling: Resampling,
    how: dict[str, Any],
    progress: ProgressOf | None = None,
    pairs: str | PathLike[str] | None = None,
) -> Measured:
    """The entry of a report, the bootstrap's replicates, and the picture; see `undye.metrics.memorization`.

    Args:
        samples: all of them are looked at.
        train: what the model was trained on.
        held_out: images like those that it was not trained on; as many as there are samples, chosen by the seed.
        resampling: of the bootstrap; its seed chooses the held-out images too.
        how: what the report says of the samples.
        progress: called with ("comparing", training images done, all).
        pairs: a PNG for the nearest samples, each beside its training image.

    Raises:
        UserError: for shapes that differ, or too few images.
    """
    images = samples.images(np.arange(len(samples)))
    seed = resampling.seed
    unseen = chosen_rows(held_out, len(samples), seed)
    result = memorization(images, train, held_out.images(unseen), ticker(progress, "comparing"))
    if pairs is not None:
        save_png(enlarge(make_grid(closest_pairs(result, images, train), columns=2)), Path(pairs))
    replicates = memorization_replicates(result, resampling)
    entry = {
        "z": result.z, "near_copies": result.near_copies, "near_by_chance": result.near_by_chance,
        "copies_beyond_chance": result.copies_beyond_chance, "farther_than_unseen": result.farther_than_unseen,
        "n": len(samples), "train_images": len(train),
        "held_out": {"name": held_out.name, "n": len(unseen)}, "seed": seed, "draw": resampling.draw, **how,
        "rms_of_255": {
            name: {str(q): float(np.quantile(values, q)) for q in (0.0, 0.01, 0.1, 0.5)}
            for name, values in (("samples", result.samples), ("held_out", result.held_out))
        },
        "intervals": {name: entry_of(found)["interval"] for name, found in replicates.items()},
        "nearest": [
            {"sample": int(k), "image": train.names(result.nearest[[k]])[0], "rms_of_255": float(result.samples[k])}
            for k in np.argsort(result.samples)[:8]
        ],
    }  # fmt: skip
    return Measured(entry, replicates)


def memorization_replicates(result: Memorization, resampling: Resampling) -> dict[str, Replicates]:
    """Of the numbers by which models are compared: the samples are drawn again, the held-out images stay as they are.

    Args:
        result: of `memorization`.
        resampling: of the bootstrap.
    """
    weights, chance = resampling.weights(len(result.samples)), result.near_by_chance
    share = mean_replicates(result.is_near.astype(np.float64), weights)
    return {
        NEAR_COPIES: Replicates.centred(result.copies_beyond_chance, np.maximum(share.values - chance, 0)),
        FARTHER: mean_replicates(result.ranks, weights),
        DISTANCE: median_replicates(result.samples, weights),
    }
