"""`undye inpaint MODEL IMAGE --mask MASK --out ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.edit_options import ImageOptions, common, model_shape, open_model, read_images, read_mask, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class InpaintArgs(ImageOptions):
    """The flags of `undye inpaint`."""

    mask: Annotated[str, tyro.conf.arg(metavar="MASK")] = ""
    """What to fill: white (or, in an .npy file, true) is filled, black stays. Of the model's size."""
    n: int = 1
    """Results for each image."""
    steps: int | None = None
    """Steps of the grid, before resampling (50)."""
    jump: int = 2
    """Steps that a resampling goes back up."""
    resamplings: int = 5
    """How often each stretch of `jump` steps is walked: network calls grow with it; 1 is no resampling."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(InpaintArgs, joined(args), "undye inpaint", "Fill a part of images (RePaint).")
    if not a.mask:
        raise UserError("no mask: give --mask an image of the same size, white where it is to be filled")
    denoiser = open_model(a)

    import numpy as np

    from undye.edit.inpaint import inpaint
    from undye.edit.inputs import check_mask

    mask = read_mask(Path(a.mask))
    images = read_images(a, model_shape(denoiser))
    fill = check_mask(mask, images).permute(0, 2, 3, 1).numpy()
    with Progress("inpainting", "network calls") as progress:
        results = inpaint(
            denoiser, images, mask, variations=a.n, steps=a.steps, jump=a.jump, resamplings=a.resamplings,
            progress=progress, **common(a, denoiser),
        )  # fmt: skip
    # the part that was to be filled in grey: nothing of it was looked at
    masked = np.where(fill, np.uint8(128), images)
    write_results(a.out, results.reshape(len(images), a.n, *images.shape[1:]), images, masked)
    print(a.out)
    return 0
