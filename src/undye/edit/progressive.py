"""Progressive generation, Ho et al. 2020, section 4.3: x_0 as predicted over time (Fig. 6), shared latents (Fig. 7)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, Int64, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.edit.grid import times_from
from undye.edit.inputs import check_time
from undye.edit.job import Common, Job, blank
from undye.errors import UserError
from undye.samplers import Ancestral, DenoiserLike, Noise, Sampler, Step, final
from undye.sampling import SampleRequest, check_request, evenly, walks
from undye.sharding import shared_rows


def progressive(
    denoiser: Denoiser,
    n: int = 8,
    frames: int = 10,
    *,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    grid: str | None = None,
    times: Sequence[float] | None = None,
    **common: Unpack[Common],
) -> list[UInt8[np.ndarray, "n h w c"]]:
    """What the model takes x_0 to be as sampling goes on: Ho et al. 2020, Fig. 6.

    Args:
        denoiser: the model.
        n: number of images.
        frames: predictions shown, evenly spread over the steps, at most one for each.
        sampler: its name or a Sampler object.
        steps: steps of the grid; None: the sampler's own number.
        grid: how the steps are spread over the times; None: as fits the sampler.
        times: in place of steps and grid: the falling times themselves, from T to 0.
        **common: seed (as `undye.sample`), label, guidance, batch_size, ..., see `undye.edit.job.Common`.

    Returns:
        the frames, each uint8 (n, H, W, C): x_0 as predicted (and clipped, if the model says so) at T first; the last
        one is the sample, what `undye.sample` gives for the same arguments.

    Raises:
        UserError: for numbers that do not fit the model.
    """
    if frames < 2:
        raise UserError(f"progressive generation needs at least 2 frames, the first and the last, got {frames}")
    world, progress = common.pop("world", None), common.pop("progress", None)
    request = SampleRequest(
        n=n, sampler=sampler, steps=steps, grid=grid, times=times,
        **common,  # pyrefly: ignore - all that is left in it is a request's
    )  # fmt: skip
    check_request(denoiser, request)

    def some(rows: range) -> Tensor:
        def tell(done: int, total: int) -> None:
            if progress is not None:  # as if the other processes were as far
                progress(done * n // len(rows), total * n // len(rows))

        def take(_: Tensor, steps: Iterator[Step], number: int) -> Tensor:
            # samplers that end in a mean have x_0 = x there; of others the sample is x
            states = (step.x if i == number - 1 else step.x_0 for i, step in enumerate(steps))
            return torch.from_numpy(np.stack(evenly(states, number, frames), axis=1))

        part = request.part(rows.start, rows.stop)
        return torch.cat([taken for _, taken in walks(denoiser, part, take, tell)])

    return list(shared_rows(world, n, some).numpy().swapaxes(0, 1))


@dataclass(frozen=True)
class SharedLatents:
    """What `shared_latents` gives.

    Attributes:
        times: (R,) the times t.
        latents: uint8 (G, R, H, W, C): x_t of each group, clipped to pixels.
        samples: uint8 (G, R, M, H, W, C): the samples that share x_t.
    """

    times: Int64[np.ndarray, " r"]
    latents: UInt8[np.ndarray, "g r h w c"]
    samples: UInt8[np.ndarray, "g r m h w c"]


def shared_latents(
    denoiser: Denoiser,
    groups: int = 1,
    members: int = 8,
    times: Sequence[int] | None = None,
    *,
    steps: int | None = 100,
    grid: Sequence[float] | None = None,
    **common: Unpack[Common],
) -> SharedLatents:
    """Samples that share their way down to x_t and go on alone: Ho et al. 2020, Fig. 7.

    From a large t they have only the coarse features in common, from a small one all but details. The way is ancestral
    sampling, on fewer steps than T: it is what is drawn on the way that tells them apart.

    Args:
        denoiser: the model.
        groups: ways down from x_T, each with its own noise.
        members: samples for each time of each way.
        times: the times t in 1..T; None: T, 3/4 T, T/2 and T/4, as the paper.
        steps: network calls from T to 0, the times added.
        grid: in place of steps: all times of the way, from T to 0, those in `times` among them.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Common`. The way of group g is a function
            of (seed, g); what follows also of the place of t among the times, and of the member's number.

    Returns:
        x_t and the samples.

    Raises:
        UserError: for numbers that do not fit the model.
    """
    if groups < 1 or members < 1:
        raise UserError(f"the numbers of groups and of members must be at least 1, got {groups} and {members}")
    chosen, way = shared_times(denoiser, times, steps, grid)
    places = [int((way == t).nonzero()) for t in chosen]
    ways, tails = groups * (len(way) - 1), groups * members * sum(len(way) - 1 - place for place in places)
    done, progress = 0, common.pop("progress", None)

    def job(keys: list[tuple[int, int]], calls: int) -> Job:
        def tell(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, ways + tails)

        return Job(denoiser=denoiser, keys=keys, calls=calls, progress=tell, **common)

    def shared(model: DenoiserLike, noise: Noise, x: Tensor) -> Tensor:
        return way_down(model, noise(x), way, noise, places)

    states = job([(g, 0) for g in range(groups)], len(way) - 1).run(shared, blank(denoiser, groups))
    done, rows = ways, []
    for r, place in enumerate(places):

        def alone(model: DenoiserLike, noise: Noise, x: Tensor, place: int = place) -> Tensor:
            return final(Ancestral().steps(model, x, way[place:], noise))

        keys = [(g, 1 + r * members + m) for g in range(groups) for m in range(members)]
        samples = job(keys, len(way) - 1 - place).run(alone, states[:, r].repeat_interleave(members, 0))
        done += len(keys) * (len(way) - 1 - place)
        rows.append(to_uint8(samples).reshape(groups, members, *_image_shape(denoiser)))
    latents = to_uint8(states.flatten(0, 1)).reshape(groups, len(places), *_image_shape(denoiser))
    return SharedLatents(np.array(chosen), latents, np.stack(rows, axis=1))


def shared_times(
    denoiser: Denoiser,
    times: Sequence[int] | None = None,
    steps: int | None = 100,
    grid: Sequence[float] | None = None,
) -> tuple[list[int], Real[Tensor, " n"]]:
    """The times t at which samples part, falling, and all times of the way down from T to 0.

    Raises:
        UserError: for a t outside of 1..T or not on the grid that is given, or steps that do not fit.
    """
    num_steps = denoiser.schedule.num_steps
    chosen = [max(1, round(num_steps * k / 4)) for k in (4, 3, 2, 1)] if times is None else list(times)
    chosen = sorted({check_time(t, num_steps) for t in chosen}, reverse=True)
    if not chosen:
        raise UserError("samples part at one time at least: give one")
    if grid is not None:
        way = times_from(num_steps, num_steps, None, grid)
        if missing := [t for t in chosen if t not in way.tolist()]:
            raise UserError(f"the time {missing[0]} is not on the grid")
        return chosen, way
    walked = times_from(num_steps, num_steps, None if steps is None else min(steps, num_steps)).tolist()
    return chosen, torch.tensor(sorted({*walked, *chosen}, reverse=True))


def way_down(
    denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Tensor, noise: Noise, places: Sequence[int]
) -> Float[Tensor, "b r c h w"]:
    """The states of ancestral sampling at some places of the grid, in the grid's order."""
    states = [x_T] if 0 in places else []
    for step in Ancestral().steps(denoiser, x_T, grid, noise):
        if step.index + 1 in places:
            states.append(step.x)
        if step.index + 1 >= max(places):
            break
    return torch.stack(states, dim=1)


def _image_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    height, width = denoiser.config.image_size
    return height, width, denoiser.config.channels
