"""Memorization as a report has it: the samples beside the training images, with the recipe."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from undye.data.source import ImageSource
from undye.metrics.findings import ProgressOf, ticker
from undye.metrics.likelihoods import chosen_rows
from undye.metrics.memorization import closest_pairs, memorization
from undye.pictures import enlarge, make_grid, save_png


def measure_memorization(
    samples: ImageSource,
    train: ImageSource,
    held_out: ImageSource,
    seed: int,
    how: dict[str, Any],
    progress: ProgressOf | None = None,
    pairs: str | PathLike[str] | None = None,
) -> dict[str, Any]:
    """The entry of a report, and the picture; see `undye.metrics.memorization`.

    Args:
        samples: all of them are looked at.
        train: what the model was trained on.
        held_out: images like those that it was not trained on; as many as there are samples, chosen by the seed.
        seed: of the choice.
        how: what the report says of the samples.
        progress: called with ("comparing", training images done, all).
        pairs: a PNG for the nearest samples, each beside its training image.

    Raises:
        UserError: for shapes that differ, or too few images.
    """
    images = samples.images(np.arange(len(samples)))
    unseen = chosen_rows(held_out, len(samples), seed)
    result = memorization(images, train, held_out.images(unseen), ticker(progress, "comparing"))
    if pairs is not None:
        save_png(enlarge(make_grid(closest_pairs(result, images, train), columns=2)), Path(pairs))
    return {
        "z": result.z, "near_copies": result.near_copies, "near_by_chance": result.near_by_chance,
        "n": len(samples), "train_images": len(train),
        "held_out": {"name": held_out.name, "n": len(unseen)}, "seed": seed, **how,
        "rms_of_255": {
            name: {str(q): float(np.quantile(values, q)) for q in (0.0, 0.01, 0.1, 0.5)}
            for name, values in (("samples", result.samples), ("held_out", result.held_out))
        },
        "nearest": [
            {"sample": int(k), "image": train.names(result.nearest[[k]])[0], "rms_of_255": float(result.samples[k])}
            for k in np.argsort(result.samples)[:8]
        ],
    }  # fmt: skip
