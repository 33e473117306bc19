"""`undye restore MODEL IMAGE --task super-resolution --factor 4 --out ...`."""

from dataclasses import dataclass
from typing import Literal

from undye.cli.edit_options import ImageOptions, common, model_shape, open_model, read_images, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RestoreArgs(ImageOptions):
    """The flags of `undye restore`."""

    task: Literal["super-resolution", "colourise"] = "super-resolution"
    """super-resolution: each pixel given is the mean of factor x factor ones; colourise: the grey of a colour image."""
    factor: int = 4
    """Of super-resolution."""
    method: Literal["ddnm", "dps"] = "ddnm"
    """ddnm: reduced again, a result is exactly the image given; dps: near it, for images with noise."""
    n: int = 1
    """Results for each image."""
    steps: int | None = None
    """Steps (ddnm 50, dps 250, with a gradient each)."""
    scale: float | None = None
    """dps: how strongly the image given draws (1)."""
    degrade: bool = False
    """Reduce, or take the colour of, full images first: to try it."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(RestoreArgs, joined(args), "undye restore", "Enlarge or colourise images by posterior sampling.")
    if a.scale is not None and a.method != "dps":
        raise UserError("--scale is for --method dps: leave it out")
    denoiser = open_model(a)

    from undye.edit.restore import degrade, measured_shape, operator_for, restore

    operator_for(denoiser, a.task, a.factor)  # a task that the model cannot do, before any image is read
    shape = measured_shape(denoiser, a.task, a.factor)
    images = read_images(a, model_shape(denoiser) if a.degrade else shape)
    measured = degrade(denoiser, images, a.task, a.factor) if a.degrade else images
    scale = 1.0 if a.scale is None else a.scale
    with Progress("restoring", "network calls") as progress:
        results = restore(
            denoiser, measured, a.task, factor=a.factor, method=a.method, variations=a.n, steps=a.steps, scale=scale,
            progress=progress, **common(a, denoiser),
        )  # fmt: skip
    enlarged = measured
    if a.task == "super-resolution":
        enlarged = measured.repeat(a.factor, axis=1).repeat(a.factor, axis=2)
    before = [images, enlarged] if a.degrade else [enlarged]
    write_results(a.out, results.reshape(len(measured), a.n, *model_shape(denoiser)), *before)
    print(a.out)
    return 0
