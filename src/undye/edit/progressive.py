"""Progressive generation, Ho et al. 2020, section 4.3: x_0 as predicted over time (Fig. 6), shared latents (Fig. 7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.edit.grid import times_from
from undye.edit.inputs import check_time
from undye.edit.job import Job, Label, Progress, blank
from undye.errors import UserError
from undye.samplers import Ancestral, DenoiserLike, Noise, Sampler, final
from undye.sampling import SampleRequest, batches


def progressive(
    denoiser: Denoiser,
    n: int = 8,
    frames: int = 10,
    *,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    grid: str = "uniform",
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[UInt8[np.ndarray, "n h w c"]]:
    """What the model takes x_0 to be as sampling goes on: Ho et al. 2020, Fig. 6.

    Args:
        denoiser: the model.
        n: number of images.
        frames: predictions shown, evenly spread over the steps, at most one for each.
        sampler: its name or a Sampler object.
        steps: steps of the grid; None: the sampler's own number.
        grid: how the steps are spread over the times.
        seed: as `undye.sample`.
        label: a class for all images or one for each.
        guidance: classifier-free guidance weight.
        batch_size: images at a time; None: by their size.
        progress: called with (network calls done, network calls in all).

    Returns:
        the frames, each uint8 (n, H, W, C): x_0 as predicted (and clipped, if the model says so) at T first; the last
        one is the sample, what `undye.sample` gives for the same arguments.

    Raises:
        UserError: for numbers that do not fit the model.
    """
    if frames < 2:
        raise UserError(f"progressive generation needs at least 2 frames, the first and the last, got {frames}")
    request = SampleRequest(
        n=n, sampler=sampler, steps=steps, grid=grid, seed=seed, label=label, guidance=guidance, batch_size=batch_size
    )
    rows: list[list[np.ndarray]] = []
    for _, walk in batches(denoiser, request, progress):
        taken = list(walk)
        # samplers that end in a mean have x_0 = x there; of others the sample is x
        states = [step.x_0 for step in taken[:-1]] + [taken[-1].x]
        chosen = np.linspace(0, len(states) - 1, min(frames, len(states))).round().astype(int)
        rows.append([to_uint8(states[i]) for i in chosen])
    return [np.concatenate(frame) for frame in zip(*rows, strict=True)]


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
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Progress | None = None,
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
        seed: the way of group g is a function of (seed, g); what follows also of t and the member's number.
        label: a class for all groups or one for each.
        guidance: classifier-free guidance weight.
        batch_size: images at a time; None: by their size.
        progress: called with (network calls done, network calls in all).

    Returns:
        x_t and the samples.

    Raises:
        UserError: for numbers that do not fit the model.
    """
    if groups < 1 or members < 1:
        raise UserError(f"the numbers of groups and of members must be at least 1, got {groups} and {members}")
    num_steps = denoiser.schedule.num_steps
    chosen = [max(1, round(num_steps * k / 4)) for k in (4, 3, 2, 1)] if times is None else list(times)
    chosen = sorted({check_time(t, num_steps) for t in chosen}, reverse=True)
    walked = times_from(num_steps, num_steps, None if steps is None else min(steps, num_steps)).tolist()
    grid = torch.tensor(sorted({*walked, *chosen}, reverse=True))
    places = [int((grid == t).nonzero()) for t in chosen]
    ways, tails = groups * (len(grid) - 1), groups * members * sum(len(grid) - 1 - place for place in places)
    done = 0

    def job(keys: list[tuple[int, int]], calls: int) -> Job:
        def tell(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, ways + tails)

        return Job(
            denoiser=denoiser, keys=keys, calls=calls,
            seed=seed, label=label, guidance=guidance, batch_size=batch_size, progress=tell,
        )  # fmt: skip

    def shared(model: DenoiserLike, noise: Noise, x: Tensor) -> Tensor:
        return way_down(model, noise(x), grid, noise, places)

    states = job([(g, 0) for g in range(groups)], len(grid) - 1).run(shared, blank(denoiser, groups))
    done, rows = ways, []
    for r, place in enumerate(places):

        def alone(model: DenoiserLike, noise: Noise, x: Tensor, place: int = place) -> Tensor:
            return final(Ancestral().steps(model, x, grid[place:], noise))

        keys = [(g, 1 + r * members + m) for g in range(groups) for m in range(members)]
        samples = job(keys, len(grid) - 1 - place).run(alone, states[:, r].repeat_interleave(members, 0))
        done += len(keys) * (len(grid) - 1 - place)
        rows.append(to_uint8(samples).reshape(groups, members, *_image_shape(denoiser)))
    latents = to_uint8(states.flatten(0, 1)).reshape(groups, len(places), *_image_shape(denoiser))
    return SharedLatents(np.array(chosen), latents, np.stack(rows, axis=1))


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
