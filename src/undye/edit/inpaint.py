"""Inpainting: Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models"."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion import process
from undye.edit.grid import times_from
from undye.edit.inputs import check_images, check_mask, check_variations
from undye.edit.job import Job, Varied, named
from undye.edit.resampling import down_steps, resampled, walk_down
from undye.samplers import Ancestral, DenoiserLike, Noise


def inpaint(
    denoiser: Denoiser,
    images: np.ndarray,
    mask: np.ndarray,
    *,
    variations: int = 1,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    jump: int = 2,
    resamplings: int = 5,
    **common: Unpack[Varied],
) -> UInt8[np.ndarray, "m h w c"]:
    """Fill the masked part of images with what the model finds likely beside the rest, which stays as it is.

    Args:
        denoiser: the model.
        images: uint8 (N, H, W, C); what they hold under the mask does not matter.
        mask: what is to be filled: (H, W) or (N, H, W), bool (True: fill) or greyscale (white: fill).
        variations: results for each image.
        steps: steps of the grid, before resampling; None: 50.
        times: in place of steps: the falling times themselves, from T to 0.
        jump: steps of the grid that a resampling goes back up.
        resamplings: how often each stretch of `jump` steps is walked; 1 is none of the paper's resampling.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Varied`. Result k of image i is a function
            of (seed, i, k).

    Returns:
        uint8 (N * variations, H, W, C), the variations of an image together. Every pixel outside the mask is the
        image's own, to the bit.

    Raises:
        UserError: for images, a mask or numbers that do not fit the model.
    """
    x_0, fill = check_images(denoiser, images), check_mask(mask, images)
    check_variations(variations)
    num_steps = denoiser.schedule.num_steps
    grid = times_from(num_steps, num_steps, steps, times)
    walk = resampled(len(grid) - 1, jump, resamplings)
    job = Job(denoiser=denoiser, keys=named(len(images), variations), calls=down_steps(walk), **common)

    def edit(model: DenoiserLike, noise: Noise, known: Tensor, unknown: Tensor) -> Tensor:
        return repaint(model, known, unknown, grid, noise, walk)

    repeated = (part.repeat_interleave(variations, 0) for part in (x_0, fill))
    filled = to_uint8(job.run(edit, *repeated))
    where = fill.permute(0, 2, 3, 1).numpy().repeat(variations, axis=0)
    return np.where(where, filled, images.repeat(variations, axis=0))


def repaint(
    denoiser: DenoiserLike,
    x_0: Float[Tensor, "b c h w"],
    fill: Bool[Tensor, "b 1 h w"],
    grid: Real[Tensor, " n"],
    noise: Noise,
    walk: list[int],
) -> Float[Tensor, "b c h w"]:
    """Algorithm 1 on any grid: the unknown part by reverse steps, the known one from q(x_s | x_0) at every level.

    Args:
        denoiser: the model.
        x_0: the images; where `fill`, not looked at.
        fill: True where unknown.
        grid: falling times, from T to 0.
        noise: source of standard normal draws.
        walk: from `resampled`.
    """

    def known(s: float) -> Tensor:
        return x_0 if s == 0 else denoiser.process.q_sample(x_0, process.times(s, x_0), noise(x_0))

    x_T = torch.where(fill, noise(x_0), known(float(grid[0])))
    return walk_down(denoiser, x_T, grid, walk, noise, Ancestral(), lambda x, s: torch.where(fill, x, known(s)))
