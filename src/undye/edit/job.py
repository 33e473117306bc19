"""An edit of many images: in batches, each result with its own noise and label, progress in network calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undye.denoiser import Denoised, Denoiser
from undye.device import fitting_batch, is_out_of_memory
from undye.edit.inputs import check_seed
from undye.edit.noise import EditNoise
from undye.errors import UserError
from undye.precision import at_least_single
from undye.samplers import DenoiserLike
from undye.samplers.guidance import Conditioned, class_labels

Label = int | Sequence[int] | np.ndarray | None
"""One class for all images, one for each, or none."""

Progress = Callable[[int, int], None]
"""Called with (network calls done, network calls in all), both counted per image."""


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
        keys: a name (image, variation) for each result: its noise. Results of one name share it.
        calls: network calls for one result, for the progress.
        seed: with the names, all that is random.
        label: a class for all images, or one for each.
        guidance: weight of classifier-free guidance.
        batch_size: results at a time; None: by their size and the memory there is. It changes nothing but float32
            rounding; a batch for which memory does not suffice is made again in halves.
        progress: told of the calls.

    Raises:
        UserError: for labels that are not the model's, a guidance without one, a batch size or seed out of range.
    """

    denoiser: Denoiser
    keys: Sequence[tuple[int, int]]
    calls: int
    seed: int = 0
    label: Label = None
    guidance: float = 1.0
    batch_size: int | None = None
    progress: Progress | None = None

    def run(self, edit: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`edit(model, noise, *parts)` for batches of the inputs, which have a row per result; float32 on the CPU."""
        check_seed(self.seed)
        labels = self._labels()
        # a model without weights (a user's own module may be one) computes in float32 on the CPU
        weights = next(self.denoiser.parameters(), torch.empty(0))
        size = self.batch_size
        if size is None:
            size = fitting_batch(self.denoiser.config.image_size, weights.device)
        if size < 1:
            raise UserError(f"the batch size must be at least 1, got {size}")
        start, total = 0, len(self.keys) * self.calls
        results, was_training = list[Tensor](), self.denoiser.training
        self.denoiser.eval()
        try:
            while start < len(self.keys):
                keys, made = self.keys[start : start + size], 0
                model: DenoiserLike = self.denoiser
                if labels is not None:
                    model = Conditioned(self.denoiser, labels[start : start + size].to(weights.device), self.guidance)

                def called(before: int = start * self.calls, count: int = len(keys)) -> None:
                    nonlocal made
                    made += count
                    if self.progress is not None:
                        self.progress(min(before + made, total), total)

                parts = [_like(part[start : start + size], weights) for part in inputs]
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
