"""From a model to images: `undye.sample`, and the stream of states it is built from."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.device import default_batch
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.samplers import SAMPLERS, DenoiserLike, SampleNoise, Sampler, Step
from undye.samplers.grid import make_grid
from undye.samplers.guidance import Conditioned, class_labels


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to sample: the arguments of `undye.sample`."""

    n: int
    sampler: str | Sampler = "ddim"
    steps: int | None = None
    grid: str = "uniform"
    seed: int = 0
    first_index: int = 0
    label: int | Sequence[int] | np.ndarray | None = None
    guidance: float = 1.0
    batch_size: int | None = None


def sample(
    denoiser: Denoiser,
    n: int = 16,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    seed: int = 0,
    *,
    grid: str = "uniform",
    label: int | Sequence[int] | np.ndarray | None = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    first_index: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Draw images from a model.

    Args:
        denoiser: the model; it runs on the device it is on, and is put into eval mode while sampling.
        n: number of images.
        sampler: "ddim", "ancestral", "langevin", or a Sampler object.
        steps: steps of the grid; None: 50 (at most T), all T for ancestral, 200 for langevin. A network call each,
            and for langevin several.
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
    return np.concatenate([to_uint8(_last(steps).x) for _, steps in batches(denoiser, request, progress)])


def film(
    denoiser: Denoiser,
    request: SampleRequest,
    frames: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> list[UInt8[np.ndarray, "n h w c"]]:
    """The reverse process as pictures: the noise x_T, then `frames` states evenly spread, the last one the sample."""
    if frames < 1:
        raise UserError(f"a film needs at least 1 frame, got {frames}")
    rows: list[list[np.ndarray]] = []
    for x_T, steps in batches(denoiser, request, progress):
        states = [to_uint8(x) for x in (x_T, *(step.x for step in steps))]
        chosen = np.linspace(0, len(states) - 1, min(frames + 1, len(states))).round().astype(int)
        rows.append([states[i] for i in chosen])
    return [np.concatenate(frame) for frame in zip(*rows, strict=True)]


def batches(
    denoiser: Denoiser, request: SampleRequest, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Tensor, Iterator[Step]]]:
    """For each batch of samples its x_T and the stream of its steps, to be consumed in order."""
    if request.n < 1:
        raise UserError(f"the number of images must be at least 1, got {request.n}")
    if not 0 <= request.seed < 2**63 or request.first_index < 0:
        raise UserError("the seed must lie in 0..2^63-1, and the number of the first sample must not be negative")
    config = denoiser.config
    sampler = resolve_sampler(request.sampler)
    if (kind := getattr(sampler, "variance", None)) in LEARNED and kind != config.variance:
        raise UserError(f"this model has not learned a variance of the kind {kind}: choose fixed_small or fixed_large")
    num_steps = denoiser.schedule.num_steps
    default = num_steps if sampler.default_steps is None else min(sampler.default_steps, num_steps)
    times = make_grid(request.grid, num_steps, default if request.steps is None else request.steps)
    labels = _labels(request, denoiser)
    height, width = config.image_size
    size = default_batch(height, width) if request.batch_size is None else request.batch_size
    if size < 1:
        raise UserError(f"the batch size must be at least 1, got {size}")
    calls = len(times) - 1
    # a model without weights (a user's own module may be one) computes in float32 on the CPU
    weights = next(denoiser.parameters(), torch.empty(0))
    for start in range(0, request.n, size):
        index = range(start, min(start + size, request.n))
        noise = SampleNoise(request.seed, [request.first_index + i for i in index])
        x_T = noise(torch.empty(len(index), config.channels, height, width, dtype=weights.dtype, device=weights.device))
        model: DenoiserLike = denoiser
        if labels is not None:
            model = Conditioned(denoiser, labels[start : index.stop].to(weights.device), request.guidance)

        def tick(done: int, start: int = start, count: int = len(index)) -> None:
            if progress is not None:
                progress(start * calls + done * count, request.n * calls)

        yield x_T, _run(denoiser, sampler.steps(model, x_T, times, noise), tick)


def _run(denoiser: Denoiser, steps: Iterator[Step], tick: Callable[[int], None]) -> Iterator[Step]:
    """The steps, computed without gradients and in eval mode, which is undone afterwards."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        for done in count(1):
            with torch.inference_mode():
                step = next(steps, None)
            if step is None:
                return
            tick(done)
            yield step
    finally:
        denoiser.train(was_training)


def _last(steps: Iterator[Step]) -> Step:
    return deque(steps, maxlen=1).pop()


def resolve_sampler(sampler: str | Sampler) -> Sampler:
    """A sampler by name with its defaults, or the sampler itself."""
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}: choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler]()


def with_options(sampler: str, **options: Any) -> Sampler:
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
    return class_labels(request.label, request.n, denoiser.config.num_classes)
