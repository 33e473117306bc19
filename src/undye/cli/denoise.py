"""`undye denoise MODEL IMAGE --sigma 25 --out ...`."""

import math
from dataclasses import dataclass

from undye.cli.edit_options import ImageOptions, common, model_shape, open_model, read_images, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DenoiseArgs(ImageOptions):
    """The flags of `undye denoise`."""

    sigma: float = 0.0
    """Standard deviation of the noise, in grey levels of 0..255."""
    draw: bool = False
    """A sharp draw of what the image may have been; without it the mean of all of them, in one network call."""
    n: int = 1
    """With --draw: draws for each image."""
    sampler: str = "ancestral"
    """With --draw: how to sample, see `undye sample --help`."""
    steps: int | None = None
    """With --draw: steps (at least 10)."""
    degrade: bool = False
    """Add such noise to the images first: to try it."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(DenoiseArgs, joined(args), "undye denoise", "Take Gaussian noise of a known level out of images.")
    if not 0 < a.sigma < math.inf:
        raise UserError("the noise's level must be known: give --sigma its standard deviation, of 255 grey levels")
    denoiser = open_model(a)

    from undye.edit.denoise import add_noise, denoise

    images = read_images(a, model_shape(denoiser))
    noisy = add_noise(images, a.sigma, a.seed) if a.degrade else images
    with Progress("denoising", "network calls") as progress:
        results = denoise(
            denoiser, noisy, a.sigma, draw=a.draw, variations=a.n, sampler=a.sampler, steps=a.steps, progress=progress,
            **common(a, denoiser),
        )  # fmt: skip
    write_results(a.out, results.reshape(len(images), a.n, *images.shape[1:]), *([images] if a.degrade else []), noisy)
    print(a.out)
    return 0
