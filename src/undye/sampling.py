"""From a model to images: `undye.sample`, and the stream of states it is built from."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, count
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.device import is_out_of_memory
from undye.diffusion.score import sigma_at
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.precision import at_least_single, network_in
from undye.samplers import SAMPLERS, DenoiserLike, SampleNoise, Sampler, Step
from undye.samplers.base import pairs
from undye.samplers.defaults import choose
from undye.samplers.fitting import fitting_batch
from undye.samplers.guidance import ClassifierGuided, Conditioned, Gradient, Thresholded, check_guidance, class_labels

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to sample: the arguments of `undye.sample`."""

    n: int
    sampler: str | Sampler | None = None
    steps: int | None = None
    grid: str | None = None
    times: Sequence[float] | None = None
    seed: int = 0
    first_index: int = 0
    label: int | Sequence[int] | np.ndarray | None = None
    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier: Gradient | None = None
    threshold: float | None = None
    batch_size: int | None = None
    dtype: str = "float32"

    def part(self, start: int, stop: int) -> "SampleRequest":
        """The samples `start` to `stop` of these."""
        label = self.label
        if label is not None and np.ndim(label):
            label = np.asarray(label)[start:stop]
        return replace(self, n=stop - start, first_index=self.first_index + start, label=label)


def sample(
    denoiser: Denoiser,
    n: int = 16,
    sampler: str | Sampler | None = None,
    steps: int | None = None,
    seed: int = 0,
    *,
    grid: str | None = None,
    times: Sequence[float] | None = None,
    label: int | Sequence[int] | np.ndarray | None = None,
    guidance: float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    classifier: Gradient | None = None,
    threshold: float | None = None,
    batch_size: int | None = None,
    first_index: int = 0,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Draw images from a model.

    Args:
        denoiser: the model; it runs on the device it is on, and is put into eval mode while sampling.
        n: number of images.
        sampler: a name in `undye.samplers.SAMPLERS`, or a Sampler object; None: with the grid None too, what was found
            best for this model and number of steps (`undye.optimise_grid`), else UniPC.
        steps: steps of the grid, a network call each (heun: two, but for the last; pc and langevin: more; rk45: as many
            as its tolerance asks for); None: the sampler's own number, at most T, and all T for ancestral.
        seed: sample i is a function of (seed, i): `n` and `batch_size` do not change it, to float32 rounding.
        grid: how the steps are spread over the times: a name in `undye.samplers.grid.GRIDS`, or "optimised": the one
            that the model holds for this number of steps; None: as fits the sampler.
        times: the grid itself, real times falling from at most T to 0, for a sampler that is named; None: by `grid`.
        label: one class for all, or one for each image; None: no class.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        guidance_interval: (lowest, highest) sigma at which to guide; None: all.
        guidance_rescale: 0 to 1, see `undye.samplers.guidance.Conditioned`.
        classifier: (x_t, t) -> the gradient of log p(y | x_t) by x_t, times its scale: classifier guidance.
        threshold: the percentile, 0 to 1, of dynamic thresholding; None: none (the sampler's `clip` is static).
        batch_size: images at a time; None: chosen from the image size and the memory there is. Where memory runs out
            all the same, fewer are taken.
        first_index: number of the first sample.
        dtype: what the network computes in, one of `undye.precision.DTYPES`; the sampler always in float32.
        progress: called with (network calls done, network calls in all) after each step.

    Returns:
        uint8 images (n, H, W, C), C is 1 or 3.

    Raises:
        UserError: for an unknown sampler or grid, or a number of steps, label, guidance or n that is out of range.
    """
    request = SampleRequest(
        n=n, sampler=sampler, steps=steps, grid=grid, times=times, seed=seed, first_index=first_index, label=label,
        guidance=guidance, guidance_interval=guidance_interval, guidance_rescale=guidance_rescale,
        classifier=classifier, threshold=threshold, batch_size=batch_size, dtype=dtype,
    )  # fmt: skip
    return np.concatenate([images for _, images in stream(denoiser, request, progress)])


def stream(
    denoiser: Denoiser, request: SampleRequest, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[range, UInt8[np.ndarray, "b h w c"]]]:
    """The images of a request as they are finished, batch by batch, each with its place among the n.

    Raises:
        UserError: as `walks`.
    """
    return walks(denoiser, request, lambda _, steps, __: to_uint8(_last(steps).x), progress)


def walks(
    denoiser: Denoiser,
    request: SampleRequest,
    take: Callable[[Tensor, Iterator[Step], int], T],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[range, T]]:
    """What is taken of the walk of each batch, with the places of its samples among the n.

    A batch for which memory does not suffice is walked again in halves: no sample depends on its batch.

    Args:
        denoiser: the model.
        request: the samples.
        take: given x_T, the steps and their number; what it keeps of them is what takes memory.
        progress: called with (network calls done, network calls in all).

    Raises:
        UserError: as `sample`; or if there is not enough memory for a single image.
    """
    check_request(denoiser, request)
    (_, times), size, start = plan(denoiser, request), batch_size(denoiser, request), 0
    while start < request.n:
        part = request.part(start, min(start + size, request.n))

        def tick(done: int, total: int, before: int = start, count: int = part.n) -> None:
            if progress is not None:
                progress(before * total // count + done, request.n * total // count)

        try:
            ((x_T, steps),) = batches(denoiser, replace(part, batch_size=part.n), tick)
            taken = take(x_T, steps, len(times) - 1)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if part.n == 1:
                raise UserError("there is not enough memory for a single image: use another --device") from None
            size = (part.n + 1) // 2
            continue
        yield range(start, start + part.n), taken
        start += part.n


def film(
    denoiser: Denoiser,
    request: SampleRequest,
    frames: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> list[UInt8[np.ndarray, "n h w c"]]:
    """The reverse process as pictures: the noise x_T, then `frames` states evenly spread, the last one the sample."""
    if frames < 1:
        raise UserError(f"a film needs at least 1 frame, got {frames}")

    def take(x_T: Tensor, steps: Iterator[Step], number: int) -> list[np.ndarray]:
        return evenly(chain([x_T], (step.x for step in steps)), number + 1, frames + 1)

    rows = [taken for _, taken in walks(denoiser, request, take, progress)]
    return [np.concatenate(frame) for frame in zip(*rows, strict=True)]


def evenly(states: Iterable[Tensor], number: int, n: int) -> list[UInt8[np.ndarray, "b h w c"]]:
    """As pictures, n of a number of states that pass by, evenly spread from the first to the last, or all of them."""
    chosen = set(np.linspace(0, number - 1, min(n, number)).round().astype(int).tolist())
    return [to_uint8(x) for i, x in enumerate(states) if i in chosen]


def batches(
    denoiser: Denoiser, request: SampleRequest, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Tensor, Iterator[Step]]]:
    """For each batch of samples its x_T and the stream of its steps, to be consumed in order."""
    check_request(denoiser, request)
    size, config = batch_size(denoiser, request), denoiser.config
    sampler, times = plan(denoiser, request)
    labels = _labels(request, denoiser)
    height, width = config.image_size
    calls = network_calls(denoiser, request, sampler, times)
    # a model without weights (a user's own module may be one) computes in float32 on the CPU
    weights = next(denoiser.parameters(), torch.empty(0))
    for start in range(0, request.n, size):
        index = range(start, min(start + size, request.n))
        noise = SampleNoise(request.seed, [request.first_index + i for i in index])
        shape = (len(index), config.channels, height, width)
        x_T = noise(torch.empty(shape, dtype=at_least_single(weights.dtype), device=weights.device))
        model = _guided(denoiser, request, None if labels is None else labels[start : index.stop].to(weights.device))

        def tick(done: int, start: int = start, count: int = len(index)) -> None:
            if progress is not None:
                progress(start * calls + done * calls // (len(times) - 1) * count, request.n * calls)

        yield x_T, _run(denoiser, sampler.steps(model, x_T, times, noise), request.dtype, tick)


def check_request(denoiser: Denoiser, request: SampleRequest) -> None:
    """Raise a UserError if the numbers of a request are out of range, or its labels not the model's."""
    for name in ("n", "steps", "seed", "first_index", "batch_size"):
        if (number := getattr(request, name)) is not None and not hasattr(number, "__index__"):
            raise UserError(f"{name} is a whole number, not {number!r}")
    if request.n < 1:
        raise UserError(f"the number of images must be at least 1, got {request.n}")
    if not 0 <= request.seed < 2**63 or request.first_index < 0:
        raise UserError("the seed must lie in 0..2^63-1, and the number of the first sample must not be negative")
    _labels(request, denoiser)


def batch_size(denoiser: Denoiser, request: SampleRequest) -> int:
    """Images at a time: what is asked for, or what fits.

    Raises:
        UserError: for less than one.
    """
    if request.batch_size is None:
        return fitting_batch(denoiser, request.n)
    if request.batch_size < 1:
        raise UserError(f"the batch size must be at least 1, got {request.batch_size}")
    return request.batch_size


def plan(denoiser: Denoiser, request: SampleRequest) -> tuple[Sampler, Tensor]:
    """The sampler and the times that a request comes to with this model.

    Raises:
        UserError: for an unknown sampler or grid, or a number of steps that is out of range.
    """
    sampler = None if request.sampler is None else resolve_sampler(request.sampler)
    if request.times is None:
        sampler, times = choose(denoiser, sampler, request.grid, request.steps)
    else:
        sampler, times = _own_times(denoiser, sampler, request)
    check_learned(denoiser, sampler)
    return sampler, times


def check_learned(denoiser: DenoiserLike, sampler: Sampler) -> None:
    """Make sure that a sampler does not ask for a variance that the model has not learned.

    Raises:
        UserError: if it does.
    """
    if (kind := getattr(sampler, "variance", None)) in LEARNED and kind != denoiser.config.variance:
        raise UserError(f"this model has not learned a variance of the kind {kind}: choose fixed_small or fixed_large")


def _own_times(denoiser: Denoiser, sampler: Sampler | None, request: SampleRequest) -> tuple[Sampler, Tensor]:
    """A sampler with times that the user gives."""
    assert request.times is not None
    if sampler is None or request.grid is not None or request.steps is not None:
        raise UserError("times are for a sampler that is named, and take the place of grid and steps: leave these out")
    times = torch.tensor([float(t) for t in request.times], dtype=torch.float64)
    try:
        pairs(times, denoiser.schedule)
    except ValueError as error:
        raise UserError(str(error)) from None
    return sampler, times


def network_calls(denoiser: Denoiser, request: SampleRequest, sampler: Sampler, times: Tensor) -> int:
    """Network calls for one image, guidance's second ones included; the grid's steps where nobody knows (rk45)."""
    calls = sampler.calls(denoiser.schedule, times)
    if calls is None:
        return len(times) - 1
    if request.guidance == 1:
        return calls
    sigma = sigma_at(denoiser.schedule.log_alpha_bar_at(times[:-1]))
    low, high = request.guidance_interval or (0, math.inf)
    return calls + round(calls * ((low <= sigma) & (sigma <= high)).double().mean().item())


def _guided(denoiser: Denoiser, request: SampleRequest, labels: Tensor | None) -> DenoiserLike:
    """The model with everything filled in that steers it."""
    model: DenoiserLike = denoiser
    if labels is not None:
        model = Conditioned(denoiser, labels, request.guidance, request.guidance_interval, request.guidance_rescale)
    if request.classifier is not None:
        model = ClassifierGuided(model, request.classifier)
    return model if request.threshold is None else Thresholded(model, request.threshold)


def _run(denoiser: Denoiser, steps: Iterator[Step], dtype: str, tick: Callable[[int], None]) -> Iterator[Step]:
    """The steps, computed without gradients and in eval mode, which is undone afterwards."""
    was_training = denoiser.training
    device = next(denoiser.parameters(), torch.empty(0)).device
    denoiser.eval()
    try:
        for done in count(1):
            with torch.inference_mode(), network_in(dtype, device):
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
    given, known = {k: v for k, v in options.items() if v is not None}, [f.name for f in fields(base)]
    for name in given:
        if name not in known:
            raise UserError(f"the sampler {sampler!r} has no option {name!r}: its options are {', '.join(known)}")
    try:
        return replace(base, **given)
    except ValueError as error:
        raise UserError(str(error)) from None


def _labels(request: SampleRequest, denoiser: Denoiser) -> Tensor | None:
    """One label per image, or None for an unconditional request."""
    guidance = (request.guidance, request.guidance_interval, request.guidance_rescale)
    if request.threshold is not None and not 0 < request.threshold <= 1:
        raise UserError(f"the threshold's percentile must lie in (0, 1], got {request.threshold}")
    if request.label is None:
        if guidance != (1.0, None, 0.0):
            if denoiser.config.num_classes is None:
                raise UserError("this model was trained without labels: there is no class to guide it to")
            raise UserError("guidance needs a label: it strengthens the class that you ask for")
        return None
    if request.guidance == 1 and guidance != (1.0, None, 0.0):
        raise UserError("a guidance interval and rescale change a guidance weight: give one other than 1")
    check_guidance(denoiser, *guidance)
    return class_labels(request.label, request.n, denoiser.config.num_classes)
