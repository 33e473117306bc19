"""`undye interpolate MODEL A.png B.png --out ...`."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from undye.cli.edit_options import ImageOptions, common, model_shape, open_model, read_images, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class InterpolateArgs(ImageOptions):
    """The flags of `undye interpolate`."""

    points: int = 9
    """Images on the way, the two ends among them."""
    t: tuple[int, ...] = ()
    """Times in 1..T to mix the images at, a row each; without it T/2 (inverted: T)."""
    method: Literal["shared", "inverted"] = "shared"
    """shared: with the same noise, the paper's; inverted: between the latents that DDIM makes the images of."""
    samples: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="I J")] = None
    """In place of images: between samples number I and J of the seed, by slerp of their noise."""
    sampler: str = ""
    """How to come down: ancestral if nothing is said, for --samples ddim; see `undye sample --help`."""
    steps: int | None = None
    """Steps on the way down."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Images on the way from one to another; several --t show coarse to fine."
    a = parse(InterpolateArgs, joined(args), "undye interpolate", about)
    if a.samples and (a.images or a.data or a.t or a.method != "shared"):
        raise UserError("--samples is between samples: leave the images, --data, --t and --method out")
    denoiser = open_model(a)
    settings = common(a, denoiser)

    import numpy as np

    from undye.edit.interpolate import interpolate, interpolate_samples

    if a.samples:
        with Progress("interpolating", "network calls") as progress:
            way = interpolate_samples(
                denoiser, *a.samples, points=a.points, sampler=a.sampler or "ddim", steps=a.steps, progress=progress,
                **settings,
            )  # fmt: skip
        write_results(a.out, way[None])
        print(a.out)
        return 0
    images = read_images(a, model_shape(denoiser))
    if len(images) % 2:
        raise UserError(f"an interpolation is between two images, or several pairs A B C D ...: got {len(images)}")
    first, second = images[0::2], images[1::2]
    with Progress("interpolating", "network calls") as progress:
        ways = interpolate(
            denoiser, first, second, points=a.points, t=a.t or None, method=a.method, sampler=a.sampler or None,
            steps=a.steps, progress=progress, **settings,
        )  # fmt: skip
    rows = ways.shape[1]
    ends = [np.repeat(end, rows, axis=0) for end in (first, second)]
    write_results(a.out, ways.reshape(-1, *ways.shape[2:]), ends[0], after=ends[1])
    print(a.out)
    return 0
