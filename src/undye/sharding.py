"""Work on many images, shared between the processes that torchrun or accelerate has started.

Every image's numbers depend on its own index alone, so each process takes a part of the indices, and what the main
process puts together is what one process would have computed (to float32 rounding, which depends on batches).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from undye.denoiser import Denoiser
from undye.sampling import SampleRequest, film, sample
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


def _part(world: World, request: SampleRequest) -> SampleRequest | None:
    """This process's part of a request; None if there are more processes than images."""
    if world.size == 1 or request.n < 1:  # the latter is an error of the user's, found by the sampler
        return request
    rows = world.rows(request.n)
    if not rows:
        return None
    label = request.label
    if label is not None and np.ndim(label):
        label = np.asarray(label)[rows.start : rows.stop]
    return replace(request, n=len(rows), first_index=request.first_index + rows.start, label=label)
