"""Denoising a noisy picture of known noise level: a diffusion model is a denoiser for every level at once."""

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from undye import keyed
from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion import process
from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule
from undye.edit.grid import times_from
from undye.edit.inputs import calls_of, check_images, check_seed, check_variations, named_sampler
from undye.edit.job import Job, Varied, named
from undye.errors import UserError
from undye.keyed import Stream
from undye.samplers import DenoiserLike, Noise, Sampler, final

LEVELS = 127.5
"""Grey levels in a unit of the model's [-1, 1]."""


def denoise(
    denoiser: Denoiser,
    images: np.ndarray,
    sigma: float,
    *,
    draw: bool = False,
    variations: int = 1,
    sampler: str | Sampler = "ancestral",
    steps: int | None = None,
    times: Sequence[float] | None = None,
    **common: Unpack[Varied],
) -> UInt8[np.ndarray, "m h w c"]:
    """Take Gaussian noise of a known level out of images.

    A noisy image y = x_0 + sigma eps, scaled by sqrt(alpha_bar_t) at the time t where sqrt(1 / alpha_bar_t - 1) is
    sigma, is x_t (Ho et al. 2020, Eq. 4); so the model's x_0 there is E[x_0 | y], the estimate of least squared error,
    in one network call. A mean over all that y may have been is smooth; a draw from p(x_0 | y) is sharp, and its
    expected squared error is twice as large.

    Args:
        denoiser: the model.
        images: uint8 (N, H, W, C), noisy. Noise that was clipped at 0 and 255 is not quite Gaussian: expect a bias in
            black and white regions where sigma is large.
        sigma: the standard deviation of the noise, in grey levels of 0..255.
        draw: a sample of p(x_0 | y) rather than its mean.
        variations: draws for each image.
        sampler: for draws: its name or a Sampler object.
        steps: for draws: network calls; None: in proportion to t, 50 from T, at least 10.
        times: in place of steps: the falling times themselves, from t to 0.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Varied`. Draw k of image i is a function
            of (seed, i, k).

    Returns:
        uint8 (N * variations, H, W, C), the variations of an image together.

    Raises:
        UserError: for images that do not fit the model, or a sigma outside of the noise that it knows.
    """
    y = check_images(denoiser, images)
    check_variations(variations)
    if variations > 1 and not draw:
        raise UserError("the mean is one image: ask for draws to have variations")
    if steps is not None and not draw:
        raise UserError("the mean takes one network call: steps are for draws")
    chosen = named_sampler(sampler, denoiser)
    grid = denoising_times(denoiser.schedule, sigma, 1 if not draw and times is None else steps, times)
    t, calls = float(grid[0]), calls_of(chosen, denoiser, grid) if draw else 1
    job = Job(denoiser=denoiser, keys=named(len(images), variations), calls=calls, **common)

    def edit(model: DenoiserLike, noise: Noise, noisy: Tensor) -> Tensor:
        x_t = scaled(model.schedule, noisy, t)
        return final(chosen.steps(model, x_t, grid, noise)) if draw else model(x_t, process.times(t, x_t)).x_0

    return to_uint8(job.run(edit, y.repeat_interleave(variations, 0)))


def denoising_times(
    schedule: NoiseSchedule, sigma: float, steps: int | None = None, times: Sequence[float] | None = None
) -> Real[Tensor, " n"]:
    """The falling times from that of noise of `sigma` grey levels to 0; `times` themselves, if these are given.

    Raises:
        UserError: if the model has seen no such noise, or for times or steps that do not fit it.
    """
    start = noise_time(schedule, sigma / LEVELS)
    if times is not None and len(times):
        first = max(times)
        if abs(first - start) > 1e-6 * start:
            raise UserError(f"this model knows noise of sigma {sigma:g} at t = {start:g}, the times begin at {first:g}")
        start = first
    return times_from(start, schedule.num_steps, steps, times)


def noise_time(schedule: NoiseSchedule, sigma: float) -> float:
    """The real time t in [1, T] with sqrt((1 - alpha_bar_t) / alpha_bar_t) = sigma, sigma in the model's units.

    Raises:
        UserError: if the model has seen no such noise.
    """
    log_alpha_bar = schedule.log_alpha_bar
    # exp overflows beyond 700: no picture is that noisy
    low, high = (math.sqrt(math.expm1(min(-float(log_alpha_bar[k]), 700))) for k in (1, -1))
    if not low <= sigma <= high:
        raise UserError(
            f"sigma must lie in {LEVELS * low:.2g}..{LEVELS * high:.3g} grey levels, the noise that this model knows, "
            f"got {LEVELS * sigma:g}"
        )
    t = schedule.time_at(torch.tensor(-math.log1p(sigma**2), dtype=torch.float64).clamp(min=float(log_alpha_bar[-1])))
    return max(1.0, float(t))


def scaled(schedule: NoiseSchedule, noisy: Float[Tensor, "b c h w"], t: float) -> Float[Tensor, "b c h w"]:
    """x_t = sqrt(alpha_bar_t) y."""
    return like((0.5 * schedule.log_alpha_bar_at(process.times(t, noisy))).exp(), noisy) * noisy


def add_noise(images: np.ndarray, sigma: float, seed: int = 0, *, first_index: int = 0) -> UInt8[np.ndarray, "n h w c"]:
    """Images with Gaussian noise of `sigma` grey levels, rounded and clipped: what a demonstration takes out again.

    That of image i is a function of (seed, first_index + i), and not a draw that `denoise` uses with the same seed.
    """
    check_seed(seed)
    shape = images.shape[1:]
    # the second counter: no edit makes 2^32 variations
    numbers = range(first_index, first_index + len(images))
    noise = torch.stack([keyed.normal(shape, seed, Stream.EDIT_NOISE, i, 2**32) for i in numbers])
    return (images + sigma * noise.numpy()).round().clip(0, 255).astype(np.uint8)
