"""`undye restore MODEL IMAGE --task super-resolution --factor 4 --out ...`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ImageOptions, steering
from undye.cli.edit_settings import ImageEdit, Made, Place, exact, model_shape, varied
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs, Shape
    from undye.denoiser import Denoiser


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


@dataclass(frozen=True, kw_only=True)
class Restore(ImageEdit):
    """What `undye restore` does, exactly."""

    command: ClassVar[str] = "restore"
    doing: ClassVar[str] = "restoring"
    task: Literal["super-resolution", "colourise"]
    factor: int
    method: Literal["ddnm", "dps"]
    degrade: bool
    times: tuple[float, ...]
    scale: float
    jump: int
    resamplings: int
    eta: float

    @classmethod
    def of(cls, a: RestoreArgs, denoiser: "Denoiser") -> "Restore":
        """What the flags come to."""
        from undye.edit.restore import ETA, JUMP, RESAMPLINGS, operator_for, restoring_times

        operator_for(denoiser, a.task, a.factor)  # a task that the model cannot do
        return cls(
            n=a.n, task=a.task, factor=a.factor, method=a.method, degrade=a.degrade,
            times=exact(restoring_times(denoiser, a.method, a.steps)), scale=1.0 if a.scale is None else a.scale,
            jump=JUMP, resamplings=RESAMPLINGS, eta=ETA, **steering(a, denoiser),
        )  # fmt: skip

    def shape(self, denoiser: "Denoiser") -> "Shape":
        """See `Edit`."""
        from undye.edit.restore import measured_shape, operator_for

        operator_for(denoiser, self.task, self.factor)
        return model_shape(denoiser) if self.degrade else measured_shape(denoiser, self.task, self.factor)

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        from undye.edit.restore import degrade, restore

        images = inputs.images
        assert images is not None
        measured = degrade(denoiser, images, self.task, self.factor) if self.degrade else images
        results = restore(
            denoiser, measured, self.task, factor=self.factor, method=self.method, times=self.times, scale=self.scale,
            jump=self.jump, resamplings=self.resamplings, eta=self.eta, **varied(self.n, only), **common,
        )  # fmt: skip
        enlarged = measured
        if self.task == "super-resolution":
            enlarged = measured.repeat(self.factor, axis=1).repeat(self.factor, axis=2)
        before = [images, enlarged] if self.degrade else [enlarged]
        return Made(results.reshape(len(images), -1, *model_shape(denoiser)), before)


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(RestoreArgs, joined(args), "undye restore", "Enlarge or colourise images by posterior sampling.")
    if a.scale is not None and a.method != "dps":
        raise UserError("--scale is for --method dps: leave it out")
    return main_of(a, Restore.of)
