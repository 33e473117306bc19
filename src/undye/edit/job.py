"""An edit of many images: in batches, each result with its own noise and label, progress in network calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from undye.denoiser import Denoised, Denoiser
from undye.device import is_out_of_memory
from undye.edit.inputs import check_seed
from undye.edit.noise import EditNoise
from undye.errors import UserError
from undye.precision import at_least_single
from undye.samplers import DenoiserLike
from undye.samplers.fitting import fitting_batch
from undye.samplers.guidance import Conditioned, class_labels
from undye.sharding import shared_rows
from undye.world import World

Label = int | Sequence[int] | np.ndarray | None
"""One class for all images, one for each, or none."""

Progress = Callable[[int, int], None]
"""Called with (network calls done, network calls in all), both counted per image."""


class Common(TypedDict, total=False):
    """The arguments by name that every edit takes beside its own; each may be left out.

    Attributes:
        seed: names all that is random, in 0..2^63-1; 0 if left out. A result is a function of it and of the numbers of
            its image and variation.
        label: a class for all images (or pairs, or groups), or one for each; None, if left out: no class.
        guidance: classifier-free guidance weight; 1 if left out, the plain conditional model.
        batch_size: results at a time; None, if left out: by their size and the memory there is. It changes nothing but
            float32 rounding; a batch for which memory does not suffice is made again in halves.
        progress: called with (network calls done, network calls in all).
        first_index: number of the first image (or pair, or group), 0 if left out: images 3 to 5 of ten get the results
            that they have among the ten, given by themselves with 3.
        world: the processes to share the work with, each of which must ask for the same; all of them get all results.
            None, if left out: this one works alone.
    """

    seed: int
    label: Label
    guidance: float
    batch_size: int | None
    progress: Progress | None
    first_index: int
    world: World | None


class Varied(Common, total=False):
    """`Common`, of edits that give several results for an image.

    Attributes:
        first_variation: number of the first of them, 0 if left out.
    """

    first_variation: int


class Counted:
    """A model that says each time that it was called."""

    def __init__(self, denoiser: DenoiserLike, called: Callable[[], None]):
        self.denoiser, self.called = denoiser, called
        self.config, self.schedule, self.process = denoiser.config, denoiser.schedule, denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Denoised:
        """What the model says."""
        self.called()
        return self.denoiser(x_t, t)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all edits share.

    Attributes:
        denoiser: the model; it runs on the device it is on.
        keys: for each result the place of its image among those given, and of its variation. With the first numbers
            added they name its noise: results of one name share it.
        calls: network calls for one result, for the progress.

    The others are those of `Varied`.

    Raises:
        UserError: for labels that are not the model's, a guidance without one, a batch size, a seed or a number out of
            range.
    """

    denoiser: Denoiser
    keys: Sequence[tuple[int, int]]
    calls: int
    seed: int = 0
    label: Label = None
    guidance: float = 1.0
    batch_size: int | None = None
    progress: Progress | None = None
    first_index: int = 0
    first_variation: int = 0
    world: World | None = None

    def run(self, edit: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`edit(model, noise, *parts)` for batches of the inputs, which have a row per result; float32 on the CPU.

        `edit` must give a row for each result, and each a function of its own inputs and noise alone.
        """
        check_seed(self.seed)
        if min(self.first_index, self.first_variation) < 0:
            raise UserError("images and variations are numbered from 0")
        labels = self._labels()
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {self.batch_size}")
        return shared_rows(self.world, len(self.keys), lambda rows: self._some(rows, labels, edit, inputs))

    def _some(
        self, rows: range, labels: Tensor | None, edit: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> Tensor:
        """Some of the results; the progress is told as if the others were as far."""
        # a model without weights (a user's own module may be one) computes in float32 on the CPU
        weights = next(self.denoiser.parameters(), torch.empty(0))
        size = self.batch_size or fitting_batch(self.denoiser, len(rows))
        start, share, total = rows.start, len(self.keys) / len(rows), len(self.keys) * self.calls
        results, was_training = list[Tensor](), self.denoiser.training
        self.denoiser.eval()
        try:
            while start < rows.stop:
                here, made = slice(start, min(start + size, rows.stop)), 0
                keys = [(self.first_index + i, self.first_variation + k) for i, k in self.keys[here]]
                model: DenoiserLike = self.denoiser
                if labels is not None:
                    model = Conditioned(self.denoiser, labels[here].to(weights.device), self.guidance)

                def called(before: int = (start - rows.start) * self.calls, count: int = len(keys)) -> None:
                    nonlocal made
                    made += count
                    if self.progress is not None:
                        self.progress(min(round((before + made) * share), total), total)

                parts = [_like(part[here], weights) for part in inputs]
                try:
                    with torch.no_grad():
                        results.append(edit(Counted(model, called), EditNoise(self.seed, keys), *parts).float().cpu())
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if len(keys) == 1:
                        raise UserError("there is not enough memory for a single image: use another --device") from None
                    size = (len(keys) + 1) // 2
                    continue
                start += len(keys)
        finally:
            self.denoiser.train(was_training)
        return torch.cat(results)

    def _labels(self) -> Tensor | None:
        """A label for each result."""
        if self.label is None:
            if self.guidance != 1.0 and self.denoiser.config.num_classes is None:
                raise UserError("this model was trained without labels: there is no class to guide it to")
            if self.guidance != 1.0:
                raise UserError("guidance needs a label: it strengthens the class that you ask for")
            return None
        images = [image for image, _ in self.keys]
        return class_labels(self.label, max(images) + 1, self.denoiser.config.num_classes)[images]


def _like(part: Tensor, weights: Tensor) -> Tensor:
    return (
        part.to(weights.device, at_least_single(weights.dtype)) if part.is_floating_point() else part.to(weights.device)
    )


def named(images: int, variations: int) -> list[tuple[int, int]]:
    """A name for each variation of each image, those of one image together."""
    return [(image, variation) for image in range(images) for variation in range(variations)]


def blank(denoiser: Denoiser, n: int) -> Tensor:
    """What gives noise its shape, where there is no image: (n, C, H, W)."""
    return torch.zeros(n, denoiser.config.channels, *denoiser.config.image_size)
