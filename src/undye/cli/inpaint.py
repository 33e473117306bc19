"""`undye inpaint MODEL IMAGE --mask MASK --out ...`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ImageOptions, steering
from undye.cli.edit_settings import ImageEdit, Made, Place, exact, varied
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.denoiser import Denoiser


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
    """Steps that a resampling goes back up; where a grid has no room for that there is none."""
    resamplings: int = 5
    """How often each stretch of `jump` steps is walked: network calls grow with it; 1 is no resampling."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(ImageEdit):
    """What `undye inpaint` does, exactly."""

    command: ClassVar[str] = "inpaint"
    doing: ClassVar[str] = "inpainting"
    masked: ClassVar[bool] = True
    times: tuple[float, ...]
    jump: int
    resamplings: int

    @classmethod
    def of(cls, a: InpaintArgs, denoiser: "Denoiser") -> "Inpaint":
        """What the flags come to."""
        from undye.edit.grid import times_from

        num_steps = denoiser.schedule.num_steps
        times = exact(times_from(num_steps, num_steps, a.steps))
        return cls(n=a.n, times=times, jump=a.jump, resamplings=a.resamplings, **steering(a, denoiser))

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        import numpy as np

        from undye.edit.inpaint import inpaint

        images, fill = inputs.images, inputs.fill
        assert images is not None
        assert fill is not None
        results = inpaint(
            denoiser, images, fill, times=self.times, jump=self.jump, resamplings=self.resamplings,
            **varied(self.n, only), **common,
        )  # fmt: skip
        # the part that was to be filled in grey: nothing of it was looked at
        masked = np.where(fill[..., None], np.uint8(128), images)
        return Made(results.reshape(len(images), -1, *images.shape[1:]), [images, masked])


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(InpaintArgs, joined(args), "undye inpaint", "Fill a part of images (RePaint).")
    if not a.mask:
        raise UserError("no mask: give --mask an image of the same size, white where it is to be filled")
    return main_of(a, Inpaint.of, mask=a.mask)
