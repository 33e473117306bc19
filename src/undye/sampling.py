"""From a model to images: `undye.sample`, and the stream of states it is built from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers import SAMPLERS, SampleNoise, Sampler, Step
from undye.samplers.base import DenoiserLike
from undye.samplers.grid import make_grid
from undye.samplers.guidance import Conditioned

# a batch's features should stay well inside the caches and memory of a small machine; the images do not depend on it
_PIXELS_PER_BATCH = 2**18


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to sample: the arguments of `undye.sample`."""

    n: int
    sampler: str | Sampler = "ddim"
    steps: int | None = 50
    grid: str = "uniform"
    seed: int = 0
    first_index: int = 0
    label: int | Sequence[int] | None = None
    guidance: float = 1.0
    batch_size: int | None = None


def sample(
    denoiser: Denoiser,
    n: int = 16,
    sampler: str | Sampler = "ddim",
    steps: int | None = 50,
    seed: int = 0,
    *,
    grid: str = "uniform",
    label: int | Sequence[int] | None = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    first_index: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Draw images from a model.

    Args:
        denoiser: the model; it runs on the device it is on, and is put into eval mode while sampling.
        n: number of images.
        sampler: "ddim", "ancestral", or a Sampler object.
        steps: number of network calls per image; None: all T of them.
        seed: sample i is a function of (seed, i): `n` and `batch_size` do not change it, to float32 rounding.
        grid: how the steps are spread over the times: "uniform" or "quadratic".
        label: one class for all, or one for each image; None: no class.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        batch_size: images at a time; None: chosen from the image size.
        first_index: number of the first sample.
        progress: called with (network calls done, network calls in all) after each step.

    Returns:
        uint8 images (n, H, W, C), C is 1 or 3.

    Raises:
        UserError: for an unknown sampler or grid, or a number of steps, label or n that is out of range.
    """
    request = SampleRequest(
        n=n, sampler=sampler, steps=steps, grid=grid, seed=seed, first_index=first_index,
        label=label, guidance=guidance, batch_size=batch_size,
    )  # fmt: skip
    images = []
    for batch in batches(denoiser, request, progress):
        step = None
        for step in batch:
            pass
        if step is not None:
            images.append(to_uint8(step.x))
    return np.concatenate(images)


def film(denoiser: Denoiser, request: SampleRequest, frames: int = 10) -> list[UInt8[np.ndarray, "n h w c"]]:
    """The reverse process as pictures: the noise x_T, then `frames` states evenly chosen, the last of them the sample."""
    if frames < 1:
        raise UserError(f"a film needs at least 1 frame, got {frames}")
    columns: list[list[np.ndarray]] = []
    for batch in batches(denoiser, request, None, with_start=True):
        states = [step.x for step in batch]
        chosen = np.unique(np.linspace(0, len(states) - 1, min(frames + 1, len(states))).round().astype(int))
        columns.append([to_uint8(states[i]) for i in chosen])
    return [np.concatenate(frame) for frame in zip(*columns, strict=True)]


def batches(
    denoiser: Denoiser,
    request: SampleRequest,
    progress: Callable[[int, int], None] | None = None,
    with_start: bool = False,
) -> Iterator[Iterator[Step]]:
    """Each batch of samples as a stream of its steps; `with_start` begins it with x_T, as a step from T to T."""
    if request.n < 1:
        raise UserError(f"the number of images must be at least 1, got {request.n}")
    config = denoiser.config
    sampler = resolve_sampler(request.sampler)
    times = make_grid(request.grid, denoiser.schedule.num_steps, request.steps)
    labels = _labels(request, denoiser)
    height, width = config.image_size
    size = request.batch_size or min(256, max(1, _PIXELS_PER_BATCH // (height * width)))
    if size < 1:
        raise UserError(f"the batch size must be at least 1, got {size}")
    calls = len(times) - 1
    first = next(denoiser.parameters(), torch.empty(0))
    dtype = first.dtype if first.dtype == torch.float64 else torch.float32
    for start in range(0, request.n, size):
        index = range(start, min(start + size, request.n))
        noise = SampleNoise(request.seed, [request.first_index + i for i in index])
        x_T = noise(torch.empty(len(index), config.channels, height, width, dtype=dtype, device=first.device))
        model: DenoiserLike = denoiser
        if labels is not None:
            model = Conditioned(denoiser, labels[start : index.stop].to(first.device), request.guidance)
        stream = sampler.steps(model, x_T, times, noise)
        head = [Step(-1, float(times[0]), float(times[0]), x_T, x_T)] if with_start else []
        yield _run(denoiser, head, stream, lambda k, start=start, m=len(index): progress and progress(start * calls + k * m, request.n * calls))


def _run(denoiser: Denoiser, head: list[Step], stream: Iterator[Step], tick: Callable[[int], object]) -> Iterator[Step]:
    """The stream without gradients and in eval mode, which is undone afterwards."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        yield from head
        done = 0
        while True:
            with torch.inference_mode():
                step = next(stream, None)
            if step is None:
                return
            done += 1
            tick(done)
            yield step
    finally:
        denoiser.train(was_training)


def resolve_sampler(sampler: str | Sampler) -> Sampler:
    """A sampler by name with its defaults, or the sampler itself."""
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}: choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler]()


def with_options(sampler: str, **options: object) -> Sampler:
    """A sampler by name with options; an option that is None keeps its default.

    Raises:
        UserError: for an option that this sampler does not have, or a value that it refuses.
    """
    base = resolve_sampler(sampler)
    given = {k: v for k, v in options.items() if v is not None}
    for name in given:
        if not hasattr(base, name):
            raise UserError(f"the sampler {sampler!r} has no option {name!r}")
    try:
        return replace(base, **given)
    except ValueError as error:
        raise UserError(str(error)) from None


def _labels(request: SampleRequest, denoiser: Denoiser) -> Tensor | None:
    """One label per image, or None for an unconditional request."""
    if request.label is None:
        if request.guidance != 1.0:
            raise UserError("guidance needs a label: it strengthens the class that you ask for")
        return None
    num_classes = denoiser.config.num_classes
    if num_classes is None:
        raise UserError("this model was trained without labels: sample it without one")
    labels = np.asarray(request.label, dtype=np.int64)
    if labels.ndim == 0:
        labels = np.full(request.n, labels)
    if labels.shape != (request.n,):
        raise UserError(f"give one label, or one for each of the {request.n} images: got {labels.size}")
    if ((labels < 0) | (labels >= num_classes)).any():
        raise UserError(f"labels must lie in 0..{num_classes - 1}")
    return torch.from_numpy(labels)
