"""Interpolation between images, with shared noise (Ho et al. 2020, section 4.4, Figs. 8 and 9) or between latents."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion.process import times
from undye.edit.grid import times_from
from undye.edit.inputs import calls_of, check_images, check_time, named_sampler
from undye.edit.job import Job, Label, Progress, blank
from undye.errors import UserError
from undye.samplers import DDIM, DenoiserLike, Noise, SampleNoise, Sampler, final
from undye.samplers.inversion import invert

INVERSION_ITERATIONS = 3
"""Fixed-point corrections of each step of the inversion, a network call each."""


def interpolate(
    denoiser: Denoiser,
    first: np.ndarray,
    second: np.ndarray,
    *,
    points: int = 9,
    t: int | Sequence[int] | None = None,
    method: Literal["shared", "inverted"] = "shared",
    sampler: str | Sampler | None = None,
    steps: int | None = None,
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Progress | None = None,
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
        points: images on the way, the two ends among them.
        t: the time, or times, in 1..T that the images are mixed at; None: T / 2 for shared, T for inverted.
        method: "shared" or "inverted".
        sampler: for shared: how to come down, a name or a Sampler object; None: ancestral. Inverted is always DDIM.
        steps: steps on the way down; None: in proportion to t, 50 from T. Inverted takes four network calls for each
            step on the way up.
        seed: the noise of pair i is a function of (seed, i).
        label: a class for all pairs or one for each.
        guidance: classifier-free guidance weight.
        batch_size: results at a time; None: by their size.
        progress: called with (network calls done, network calls in all).

    Returns:
        uint8 (N, R, points, H, W, C), a row for each of the R times.

    Raises:
        UserError: for images or numbers that do not fit the model.
    """
    x_a, x_b = check_images(denoiser, first), check_images(denoiser, second)
    if len(x_a) != len(x_b):
        raise UserError(f"images are interpolated in pairs: got {len(x_a)} first and {len(x_b)} second ones")
    if points < 2:
        raise UserError(f"an interpolation has at least 2 points, its ends, got {points}")
    if method not in ("shared", "inverted"):
        raise UserError(f"unknown method {method!r}: choose shared or inverted")
    if method == "inverted" and sampler is not None:
        raise UserError("inverted latents are decoded by the DDIM that they were made with: leave the sampler out")
    num_steps = denoiser.schedule.num_steps
    default = num_steps if method == "inverted" else max(1, num_steps // 2)
    chosen = [default] if t is None else [t] if isinstance(t, int) else list(t)
    chosen = [check_time(time, num_steps) for time in chosen]
    down = named_sampler(sampler or "ancestral", denoiser)
    grids = [times_from(time, num_steps, steps) for time in chosen]
    weight = torch.linspace(0, 1, points, dtype=torch.float64)
    keys = [(pair, 0) for pair in range(len(x_a)) for _ in range(points)]
    ends = [x.repeat_interleave(points, 0) for x in (x_a, x_b)]
    rows = list[np.ndarray]()

    def calls(grid: Tensor) -> int:
        # the way up counts as if every point were inverted by itself
        up = 2 * (1 + INVERSION_ITERATIONS) * (len(grid) - 1)
        return calls_of(down, denoiser, grid) if method == "shared" else up + len(grid) - 1

    total, done = sum(calls(grid) for grid in grids) * len(keys), 0
    for grid in grids:

        def edit(model: DenoiserLike, noise: Noise, a: Tensor, b: Tensor, lam: Tensor, grid: Tensor = grid) -> Tensor:
            if method == "shared":
                return shared_noise(model, a, b, lam, grid, noise, down)
            return inverted(model, a, b, lam, grid, noise)

        def tell(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, total)

        job = Job(
            denoiser=denoiser, keys=keys, calls=calls(grid),
            seed=seed, label=label, guidance=guidance, batch_size=batch_size, progress=tell,
        )  # fmt: skip
        rows.append(to_uint8(job.run(edit, *ends, weight.float().repeat(len(x_a)))))
        done += calls(grid) * len(keys)
    return np.stack([row.reshape(len(x_a), points, *row.shape[1:]) for row in rows], axis=1)


def interpolate_samples(
    denoiser: Denoiser,
    first: int,
    second: int,
    *,
    points: int = 9,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "p h w c"]:
    """Images on the way from one sample to another: slerp between their x_T.

    With a deterministic sampler the ends are what `undye.sample` gives for the sampler, seed, number of steps and the
    uniform grid: images number `first` and `second`.

    Args:
        denoiser: the model.
        first: number of a sample.
        second: number of another.
        points: images on the way, the two ends among them.
        sampler: its name or a Sampler object; a random one draws the same noise for all points.
        steps: network calls from T; None: 50.
        seed: as `undye.sample`.
        label: one class for all points.
        guidance: classifier-free guidance weight.
        batch_size: results at a time; None: by their size.
        progress: called with (network calls done, network calls in all).

    Returns:
        uint8 (points, H, W, C).

    Raises:
        UserError: for numbers that are out of range.
    """
    if points < 2:
        raise UserError(f"an interpolation has at least 2 points, its ends, got {points}")
    if min(first, second) < 0:
        raise UserError(f"samples are numbered from 0, got {min(first, second)}")
    num_steps = denoiser.schedule.num_steps
    grid, down = times_from(num_steps, num_steps, steps), named_sampler(sampler, denoiser)
    job = Job(
        denoiser=denoiser, keys=[(0, 0)] * points, calls=calls_of(down, denoiser, grid),
        seed=seed, label=label, guidance=guidance, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    a, b = (SampleNoise(seed, [k])(blank(denoiser, 1)).expand(points, -1, -1, -1) for k in (first, second))
    x_T = slerp(a, b, torch.linspace(0, 1, points, dtype=torch.float64))
    return to_uint8(job.run(lambda model, noise, x: final(down.steps(model, x, grid, noise)), x_T))


def shared_noise(
    denoiser: DenoiserLike,
    first: Float[Tensor, "b c h w"],
    second: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    grid: Tensor,
    noise: Noise,
    sampler: Sampler,
) -> Float[Tensor, "b c h w"]:
    """Ho et al. 2020, section 4.4: (1 - lambda) x_t + lambda x'_t at the grid's first time, decoded from there.

    `noise` must give the points of one pair the same draws; the paper fixes the noise across lambda.
    """
    t, eps = times(float(grid[0]), first), noise(first)
    x_t, other = (denoiser.process.q_sample(x, t, eps) for x in (first, second))
    lam = weight.to(x_t).view(-1, 1, 1, 1)
    # lerp is exact at both ends
    return final(sampler.steps(denoiser, torch.lerp(x_t, other, lam), grid, noise))


def inverted(
    denoiser: DenoiserLike,
    first: Float[Tensor, "b c h w"],
    second: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    grid: Tensor,
    noise: Noise,
) -> Float[Tensor, "b c h w"]:
    """Slerp between the latents of two images, found by DDIM inversion, decoded by DDIM; x_0 is not clipped.

    Song et al. 2021 (DDIM), section 5.3 and appendix D.5. Clipping cannot be inverted, so both ways go without.
    """
    latents = []
    for x in (first, second):
        # the points of one pair begin with one image: it is inverted once
        rows, where = torch.unique(x, dim=0, return_inverse=True)
        latents.append(invert(denoiser, rows, grid, INVERSION_ITERATIONS)[where])
    x_t = slerp(latents[0], latents[1], weight)
    return final(DDIM(clip=False).steps(denoiser, x_t, grid, noise))


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
