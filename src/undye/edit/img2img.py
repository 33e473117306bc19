"""Image to image: SDEdit, Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with SDEs"."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion import process
from undye.edit.grid import times_from
from undye.edit.inputs import calls_of, check_images, check_variations, named_sampler
from undye.edit.job import Job, Varied, named
from undye.errors import UserError
from undye.samplers import DenoiserLike, Noise, Sampler, final


def img2img(
    denoiser: Denoiser,
    images: np.ndarray,
    strength: float = 0.5,
    *,
    variations: int = 1,
    sampler: str | Sampler = "ancestral",
    steps: int | None = None,
    times: Sequence[float] | None = None,
    **common: Unpack[Varied],
) -> UInt8[np.ndarray, "m h w c"]:
    """Turn images, strokes for example, into images of the model's kind that look like them.

    Args:
        denoiser: the model.
        images: uint8 (N, H, W, C).
        strength: how far up the chain to go, as a fraction of T in (0, 1]: the more, the less is left of the image.
            At 1 nothing is (if the schedule leaves no signal at T), towards 0 the image is what comes out.
        variations: results for each image.
        sampler: how to come down again: its name or a Sampler object. The noise of a random one mends what is unlike
            any image of the model's kind, such as strokes.
        steps: network calls on the way down; None: 50 times the strength, at least 10.
        times: in place of strength and steps: the falling times themselves, from where it starts, at most T, to 0.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Varied`. Result k of image i is a function
            of (seed, i, k).

    Returns:
        uint8 (N * variations, H, W, C), the variations of an image together.

    Raises:
        UserError: for images or numbers that do not fit the model.
    """
    x_0 = check_images(denoiser, images)
    check_variations(variations)
    chosen = named_sampler(sampler, denoiser)
    num_steps = denoiser.schedule.num_steps
    start = start_time(strength, num_steps) if times is None else max(times, default=0)
    grid = times_from(start, num_steps, steps, times)
    keys = named(len(images), variations)
    job = Job(denoiser=denoiser, keys=keys, calls=calls_of(chosen, denoiser, grid), **common)

    def edit(model: DenoiserLike, noise: Noise, x: Tensor) -> Tensor:
        return noise_and_denoise(model, x, grid, noise, chosen)

    return to_uint8(job.run(edit, x_0.repeat_interleave(variations, 0)))


def noise_and_denoise(
    denoiser: DenoiserLike, x_0: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise, sampler: Sampler
) -> Float[Tensor, "b c h w"]:
    """x_t ~ q(x_t | x_0) at the grid's first time, and down again: Meng et al., Algorithm 1."""
    x_t = denoiser.process.q_sample(x_0, process.times(float(grid[0]), x_0), noise(x_0))
    with torch.no_grad():
        return final(sampler.steps(denoiser, x_t, grid, noise))


def start_time(strength: float, num_steps: int) -> int:
    """The time t in 1..T that a strength in (0, 1] means.

    Raises:
        UserError: for a strength outside.
    """
    if not 0 < strength <= 1:
        raise UserError(f"the strength must lie in (0, 1], got {strength:g}")
    return max(1, round(strength * num_steps))
