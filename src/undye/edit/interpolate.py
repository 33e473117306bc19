"""Interpolation between images, with shared noise (Ho et al. 2020, section 4.4, Figs. 8 and 9) or between latents."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Unpack

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion import process
from undye.edit.grid import times_from
from undye.edit.inputs import calls_of, check_images, check_seed, check_time, named_sampler
from undye.edit.job import Common, Job, blank
from undye.errors import UserError
from undye.samplers import DDIM, DenoiserLike, Noise, SampleNoise, Sampler, final
from undye.samplers.inversion import invert
from undye.sampling import SampleRequest, plan

INVERSION_ITERATIONS = 3
"""Fixed-point corrections of each step of the inversion, a network call each."""
MOST_POINTS = 1_000_000


def interpolate(
    denoiser: Denoiser,
    first: np.ndarray,
    second: np.ndarray,
    *,
    points: int | Sequence[float] = 9,
    t: int | Sequence[int] | None = None,
    method: Literal["shared", "inverted"] = "shared",
    sampler: str | Sampler | None = None,
    steps: int | None = None,
    times: Sequence[Sequence[float]] | None = None,
    iterations: int = INVERSION_ITERATIONS,
    **common: Unpack[Common],
) -> UInt8[np.ndarray, "n r p h w c"]:
    """Images on the way from one image to another.

    Method `shared`, the paper's: both images go to x_t with the same noise, x_t is mixed linearly, and p(x_0 | x_t)
    is drawn with the same noise for all points; so the ends are reconstructions of the images from x_t, and at small t
    close to them. Several t show coarse to fine (Fig. 9): the more is destroyed, the more freely the way leads through
    other images. Method `inverted`: both images are taken to the latents that deterministic DDIM makes them from, and
    those are mixed on the sphere (slerp): the ends are the images themselves, to the inversion's error.

    Args:
        denoiser: the model.
        first: uint8 (N, H, W, C).
        second: as many: pair i is (first[i], second[i]).
        points: how many images on the way, the two ends among them; or where on it each is, from 0 (first) to 1.
        t: the time, or times, in 1..T that the images are mixed at; None: T / 2 for shared, T for inverted.
        method: "shared" or "inverted".
        sampler: for shared: how to come down, a name or a Sampler object; None: ancestral. Inverted is always DDIM.
        steps: steps on the way down; None: in proportion to t, 50 from T. Inverted takes four network calls for each
            step on the way up.
        times: in place of steps: for each t the falling times themselves, from t to 0.
        iterations: of inverted: fixed-point corrections of each step on the way up, a network call each.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Common`. The noise of pair i is a function
            of (seed, i).

    Returns:
        uint8 (N, R, points, H, W, C), a row for each of the R times.

    Raises:
        UserError: for images or numbers that do not fit the model.
    """
    x_a, x_b = check_images(denoiser, first), check_images(denoiser, second)
    if len(x_a) != len(x_b):
        raise UserError(f"images are interpolated in pairs: got {len(x_a)} first and {len(x_b)} second ones")
    weight = way_points(points)
    if method not in ("shared", "inverted"):
        raise UserError(f"unknown method {method!r}: choose shared or inverted")
    if method == "inverted" and sampler is not None:
        raise UserError("inverted latents are decoded by the DDIM that they were made with: leave the sampler out")
    if iterations < 0:
        raise UserError(f"the number of corrections must not be negative, got {iterations}")
    down = named_sampler(sampler or "ancestral", denoiser)
    grids = mixing_times(denoiser, method, t, steps, times)
    pairs = [(pair, 0) for pair in range(len(x_a))]
    points_of = [pair for pair in pairs for _ in weight]
    lam = weight.float().repeat(len(x_a))
    rows, progress = list[np.ndarray](), common.pop("progress", None)

    def calls(grid: Tensor) -> tuple[int, int]:
        """Of an image on the way up, and of a point on the way down."""
        if method == "shared":
            return 0, calls_of(down, denoiser, grid)
        return (1 + iterations) * (len(grid) - 1), len(grid) - 1

    total = sum(2 * len(pairs) * up + len(points_of) * way for up, way in map(calls, grids))
    done = 0

    def run(keys: list[tuple[int, int]], count: int, edit: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        nonlocal done

        def tell(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, total)

        done += len(keys) * count
        return Job(denoiser=denoiser, keys=keys, calls=count, progress=tell, **common).run(edit, *inputs)

    for grid in grids:
        up, way = calls(grid)
        ends, edit = torch.cat([x_a, x_b]), partial(shared_noise, grid=grid, sampler=down)
        if method == "inverted":  # each image once, whatever the number of points
            ends = run(pairs * 2, up, partial(_latents, grid=grid, iterations=iterations), ends)
            edit = partial(between_latents, grid=grid)
        a, b = (x.repeat_interleave(len(weight), 0) for x in ends.chunk(2))
        rows.append(to_uint8(run(points_of, way, edit, a, b, lam)))
    return np.stack([row.reshape(len(x_a), len(weight), *row.shape[1:]) for row in rows], axis=1)


def interpolate_samples(
    denoiser: Denoiser,
    first: int,
    second: int,
    *,
    points: int | Sequence[float] = 9,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    times: Sequence[float] | None = None,
    **common: Unpack[Common],
) -> UInt8[np.ndarray, "p h w c"]:
    """Images on the way from one sample to another: slerp between their x_T.

    With a deterministic sampler the ends are what `undye.sample` gives for the sampler, seed and number of steps:
    images number `first` and `second`.

    Args:
        denoiser: the model.
        first: number of a sample.
        second: number of another.
        points: how many images on the way, the two ends among them; or where on it each is, from 0 (first) to 1.
        sampler: its name or a Sampler object; a random one draws the same noise for all points.
        steps: of the sampler's own grid; None: its own number.
        times: in place of steps: the falling times themselves, from T to 0.
        **common: seed (as `undye.sample`), label (one for all points), guidance, batch_size, ..., see
            `undye.edit.job.Common`.

    Returns:
        uint8 (points, H, W, C).

    Raises:
        UserError: for numbers that are out of range.
    """
    weight = way_points(points)
    if min(first, second) < 0:
        raise UserError(f"samples are numbered from 0, got {min(first, second)}")
    down, grid = plan(denoiser, SampleRequest(n=2, sampler=sampler, steps=steps, times=times))
    job = Job(denoiser=denoiser, keys=[(0, 0)] * len(weight), calls=calls_of(down, denoiser, grid), **common)
    check_seed(job.seed)
    a, b = (SampleNoise(job.seed, [k])(blank(denoiser, 1)).expand(len(weight), -1, -1, -1) for k in (first, second))
    x_T = slerp(a, b, weight)
    return to_uint8(job.run(lambda model, noise, x: final(down.steps(model, x, grid, noise)), x_T))


def way_points(points: int | Sequence[float]) -> Float[Tensor, " p"]:
    """Where on the way each image is, from 0 to 1.

    Raises:
        UserError: for fewer than two points, far too many, or one off the way.
    """
    if isinstance(points, int):
        if points < 2:
            raise UserError(f"an interpolation has at least 2 points, its ends, got {points}")
        if points > MOST_POINTS:
            raise UserError(f"an interpolation has at most {MOST_POINTS:,} points, got {points:,}")
        return torch.linspace(0, 1, points, dtype=torch.float64)
    if not len(points) or not all(0 <= p <= 1 for p in points):
        raise UserError("the points of an interpolation are a number of them, or where they are: each from 0 to 1")
    return torch.tensor([float(p) for p in points], dtype=torch.float64)


def mixing_times(
    denoiser: Denoiser,
    method: str,
    t: int | Sequence[int] | None = None,
    steps: int | None = None,
    times: Sequence[Sequence[float]] | None = None,
) -> list[Real[Tensor, " n"]]:
    """For each time t that images are mixed at, the falling times from there to 0.

    Raises:
        UserError: for a time, or steps, that do not fit.
    """
    num_steps = denoiser.schedule.num_steps
    default = num_steps if method == "inverted" else max(1, num_steps // 2)
    chosen = [default] if t is None else [t] if isinstance(t, int) else list(t)
    chosen = [check_time(time, num_steps) for time in chosen]
    if not chosen or (times is not None and len(times) != len(chosen)):
        raise UserError(f"each t has a row of times: got {len(chosen)} t" + (f", {len(times)} rows" if times else ""))
    given = [None] * len(chosen) if times is None else times
    return [times_from(time, num_steps, steps, own) for time, own in zip(chosen, given, strict=True)]


def shared_noise(
    denoiser: DenoiserLike,
    noise: Noise,
    first: Float[Tensor, "b c h w"],
    second: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    grid: Tensor,
    sampler: Sampler,
) -> Float[Tensor, "b c h w"]:
    """Ho et al. 2020, section 4.4: (1 - lambda) x_t + lambda x'_t at the grid's first time, decoded from there.

    `noise` must give the points of one pair the same draws; the paper fixes the noise across lambda.
    """
    t, eps = process.times(float(grid[0]), first), noise(first)
    x_t, other = (denoiser.process.q_sample(x, t, eps) for x in (first, second))
    lam = weight.to(x_t).view(-1, 1, 1, 1)
    # lerp is exact at both ends
    return final(sampler.steps(denoiser, torch.lerp(x_t, other, lam), grid, noise))


def _latents(denoiser: DenoiserLike, _: Noise, x_0: Tensor, grid: Tensor, iterations: int) -> Tensor:
    return invert(denoiser, x_0, grid, iterations)


def between_latents(
    denoiser: DenoiserLike,
    noise: Noise,
    first: Float[Tensor, "b c h w"],
    second: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    grid: Tensor,
) -> Float[Tensor, "b c h w"]:
    """Slerp between the latents of two images, found by DDIM inversion on this grid, decoded by DDIM; not clipped.

    Song et al. 2021 (DDIM), section 5.3 and appendix D.5. Clipping cannot be inverted, so both ways go without.
    """
    return final(DDIM(clip=False).steps(denoiser, slerp(first, second, weight), grid, noise))


def slerp(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], weight: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Spherical interpolation (Shoemake 1985): at 0 `first`, at 1 `second`, to the bit; in float64 inside.

    Of two draws of noise every mixture has the norm of noise, which a linear one has not. The lengths are mixed
    linearly, so that latents of different norms serve too.
    """
    a, b = first.double().flatten(1).cpu(), second.double().flatten(1).cpu()
    lam = weight.double().cpu()[:, None]
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(1, keepdim=True) / (norm_a * norm_b)
    angle = cosine.clamp(-1, 1).acos()
    # nearly parallel, the sphere is flat: sin would divide 0 by 0
    flat = angle.sin() < 1e-6
    sine = torch.where(flat, torch.ones_like(angle), angle.sin())
    share_a = torch.where(flat, 1 - lam, ((1 - lam) * angle).sin() / sine)
    share_b = torch.where(flat, lam, (lam * angle).sin() / sine)
    length = torch.lerp(norm_a, norm_b, lam)
    mixed = length * (share_a * a / norm_a + share_b * b / norm_b)
    mixed = torch.where(lam == 0, a, torch.where(lam == 1, b, mixed))
    return mixed.view(first.shape).to(first)
