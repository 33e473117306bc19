"""Images that a run is measured on but not trained on, and the quick measurement itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from undye import keyed
from undye.data import NAMED_DATASETS, load_images
from undye.data.part import Part
from undye.data.source import ArraySource, ImageSource
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.nll import Estimate, bits_per_dim
from undye.training.events import Measured
from undye.training.run import RunConfig

SEED = 0
"""Names the images and the noise: the same whatever the run's own seed, so that runs can be compared."""
SPLIT = 1
"""Counter of the draw that says which images are held out; 0 is that of the images that are measured."""


def in_memory(source: ImageSource) -> bool:
    """Whether its images are there without decoding."""
    return isinstance(source.whole if isinstance(source, Part) else source, ArraySource)


def split(source: ImageSource, fraction: float) -> tuple[ImageSource, ImageSource | None]:
    """The images to train on, and those that are held out: a function of the fraction and the number of images alone.

    Raises:
        UserError: if one of them would be empty.
    """
    if not fraction:
        return source, None
    n = len(source)
    held = round(fraction * n)
    if not 0 < held < n:
        raise UserError(f"--watch.held-out {fraction:g} of {n:,} images is {held or 'none'}: choose another fraction")
    order = keyed.permutation(n, SEED, Stream.EVAL_IMAGES, SPLIT)
    return Part(source, np.sort(order[held:])), Part(source, np.sort(order[:held]))


def has_test_split(data: str) -> bool:
    """Whether the data come with images that are not for training."""
    path = Path(data).expanduser()
    return data in NAMED_DATASETS or all((path / name).is_dir() for name in ("train", "test"))


@dataclass(frozen=True)
class HeldOut:
    """The images of a run's quick measurements; see `measure`.

    Attributes:
        name: where they are from.
        images: uint8 (N, H, W, C); labels: (N,) int64 or None.
        draws: times drawn for each image.
    """

    name: str
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int64[np.ndarray, " n"] | None
    draws: int

    @classmethod
    def load(cls, config: RunConfig, training: ImageSource, held: ImageSource | None) -> "HeldOut | None":
        """Those that a run asks for: from what was held out, else from the data's own test split; None: it asks not.

        Raises:
            UserError: if there are neither.
        """
        watch = config.watch
        if not watch.nll_every:
            return None
        if held is None:
            if not has_test_split(config.data):
                raise UserError(
                    f"{config.data} has no test split to measure on: hold some images out, --watch.held-out 0.05, "
                    "or leave --watch.nll-every out"
                )
            held = load_images(
                config.data, split="test", image_size=training.image_size, channels=1 if training.channels == 1 else 3,
                labels=config.labels, upscale=config.upscale,
            )  # fmt: skip
            if held.class_names != training.class_names:
                raise UserError(f"{held.name} has other classes than {training.name}: give both the same folders")
        chosen = np.sort(keyed.permutation(len(held), SEED, Stream.EVAL_IMAGES)[: watch.nll_images])
        name = f"{held.name}, held out" if isinstance(held, Part) else held.name
        return cls(name, held.images(chosen), held.labels(chosen), watch.nll_draws)

    def measure(self, model: Denoiser, step: int, progress: Callable[[int, int], None] | None = None) -> Measured:
        """The variational bound of a model on these images, always with the same times and noise.

        Raises:
            UserError: if the model's answers are not finite.
        """
        start = time.perf_counter()
        terms = bits_per_dim(model, self.images, label=self.labels, draws=self.draws, seed=SEED, progress=progress)
        bits = Estimate.of(terms.total)
        seconds = time.perf_counter() - start
        return Measured(step, bits.mean, bits.standard_error, len(self.images), self.draws, seconds)

    def seconds(self, model: Denoiser) -> float:
        """About what `measure` takes."""
        part = HeldOut(self.name, self.images[:8], None if self.labels is None else self.labels[:8], self.draws)
        part.measure(model, 0)  # the first call allocates
        return part.measure(model, 0).seconds * len(self.images) / len(part.images)
