"""Image to image: SDEdit, Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with SDEs"."""

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion.process import times
from undye.edit.grid import times_from
from undye.edit.inputs import calls_of, check_images, check_variations, named_sampler
from undye.edit.job import Job, Label, Progress, named
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
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Progress | None = None,
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
        seed: result k of image i is a function of (seed, i, k).
        label: a class for all images or one for each.
        guidance: classifier-free guidance weight.
        batch_size: results at a time; None: by their size.
        progress: called with (network calls done, network calls in all).

    Returns:
        uint8 (N * variations, H, W, C), the variations of an image together.

    Raises:
        UserError: for images or numbers that do not fit the model.
    """
    x_0 = check_images(denoiser, images)
    check_variations(variations)
    chosen = named_sampler(sampler, denoiser)
    grid = times_from(start_time(strength, denoiser.schedule.num_steps), denoiser.schedule.num_steps, steps)
    job = Job(
        denoiser=denoiser, keys=named(len(images), variations), calls=calls_of(chosen, denoiser, grid),
        seed=seed, label=label, guidance=guidance, batch_size=batch_size, progress=progress,
    )  # fmt: skip

    def edit(model: DenoiserLike, noise: Noise, x: Tensor) -> Tensor:
        return noise_and_denoise(model, x, grid, noise, chosen)

    return to_uint8(job.run(edit, x_0.repeat_interleave(variations, 0)))


def noise_and_denoise(
    denoiser: DenoiserLike, x_0: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise, sampler: Sampler
) -> Float[Tensor, "b c h w"]:
    """x_t ~ q(x_t | x_0) at the grid's first time, and down again: Meng et al., Algorithm 1."""
    x_t = denoiser.process.q_sample(x_0, times(float(grid[0]), x_0), noise(x_0))
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
