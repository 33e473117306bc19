"""Work on many images, shared between the processes that torchrun or accelerate has started.

Every image's numbers depend on its own index alone, so each process takes a part of the indices, and what the main
process puts together is what one process would have computed (to float32 rounding, which depends on batches).
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from undye.denoiser import Denoiser
from undye.sampling import SampleRequest, film, sample, stream
from undye.world import World

Progress = Callable[[int, int], None]


def shared_sample(
    world: World, denoiser: Denoiser, request: SampleRequest, progress: Progress | None = None
) -> np.ndarray | None:
    """`undye.sample` by all processes: the images, uint8 (n, H, W, C), in the main one, None in the others."""
    part = _part(world, request)
    images = None if part is None else sample(denoiser, **vars(part), progress=progress)
    parts = world.collect(images)
    return None if parts is None else np.concatenate([p for p in parts if p is not None])


def shared_film(
    world: World, denoiser: Denoiser, request: SampleRequest, frames: int, progress: Progress | None = None
) -> list[np.ndarray] | None:
    """`undye.sampling.film` by all processes: its frames in the main one, None in the others."""
    part = _part(world, request)
    pictures = None if part is None else film(denoiser, part, frames, progress)
    parts = world.collect(pictures)
    if parts is None:
        return None
    return [np.concatenate(frame) for frame in zip(*(p for p in parts if p is not None), strict=True)]


def shared_rows(world: World | None, n: int, make: Callable[[range], Tensor]) -> Tensor:
    """`make(range(n))`, a row for each of n things, made by all processes and had by all of them, on the CPU.

    Args:
        world: the processes; None: this one alone.
        n: how many rows, at least one.
        make: makes some of the rows, each of them a function of its number alone.

    Raises:
        UserError: if `make` raised one here; a SaidElsewhereError if it did in another process.
    """
    if world is None or world.size == 1:
        return make(range(n))
    # equally many for each, as gathering asks for: where they do not come out even, two processes make the same rows,
    # which takes no longer, and where there are more processes than rows, some do what another does
    each = -(-n // world.size)
    starts = [min(rank * each, n - each) for rank in range(world.size)]
    mine = range(starts[world.rank], starts[world.rank] + each)
    parts = world.gather(world.agreed(lambda: make(mine)))
    rows = parts.new_empty(n, *parts.shape[2:])
    for start, part in zip(starts, parts, strict=True):
        rows[start : start + each] = part
    return rows


def shared_stream(
    world: World,
    denoiser: Denoiser,
    request: SampleRequest,
    take: Callable[[range, np.ndarray], None],
    places: list[range],
    progress: Progress | None = None,
) -> None:
    """Each process draws its part of the samples at `places`, and gives each finished batch to its own `take`.

    Args:
        world: the processes.
        denoiser: the model.
        request: all samples.
        take: called with (their places among all, uint8 images).
        places: which of them to draw.
        progress: called with (network calls done, all) of this process.
    """
    wanted = np.concatenate([np.arange(r.start, r.stop) for r in places]) if places else np.arange(0)
    mine = wanted[world.rows(len(wanted)).start : world.rows(len(wanted)).stop] if world.size > 1 else wanted
    runs = np.split(mine, np.flatnonzero(np.diff(mine) > 1) + 1) if len(mine) else []
    done = 0
    for run in (range(int(r[0]), int(r[-1]) + 1) for r in runs):

        def tick(calls: int, of: int, before: int = done, count: int = len(run)) -> None:
            if progress is not None:
                each = of // count
                progress(before * each + calls, len(mine) * each)

        for numbers, images in stream(denoiser, request.part(run.start, run.stop), tick):
            take(range(run.start + numbers.start, run.start + numbers.stop), images)
        done += len(run)


def _part(world: World, request: SampleRequest) -> SampleRequest | None:
    """This process's part of a request; None if there are more processes than images."""
    if world.size == 1 or request.n < 1:  # the latter is an error of the user's, found by the sampler
        return request
    rows = world.rows(request.n)
    return request.part(rows.start, rows.stop) if rows else None
