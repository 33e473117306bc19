"""`undye denoise MODEL IMAGE --sigma 25 --out ...`."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ImageOptions, steering
from undye.cli.edit_settings import ImageEdit, Made, Place, SamplerName, exact, varied
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.denoiser import Denoiser


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


@dataclass(frozen=True, kw_only=True)
class Denoise(ImageEdit):
    """What `undye denoise` does, exactly."""

    command: ClassVar[str] = "denoise"
    doing: ClassVar[str] = "denoising"
    sigma: float
    draw: bool
    degrade: bool
    times: tuple[float, ...]
    sampler: SamplerName

    @classmethod
    def of(cls, a: DenoiseArgs, denoiser: "Denoiser") -> "Denoise":
        """What the flags come to."""
        from undye.edit.denoise import denoising_times

        if a.steps is not None and not a.draw:
            raise UserError("the mean takes one network call: --steps are for --draw")
        times = exact(denoising_times(denoiser.schedule, a.sigma, a.steps if a.draw else 1))
        return cls(
            n=a.n, sigma=a.sigma, draw=a.draw, degrade=a.degrade, times=times, sampler=SamplerName.of(a.sampler),
            **steering(a, denoiser),
        )  # fmt: skip

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        from undye.edit.denoise import add_noise, denoise

        images = inputs.images
        assert images is not None
        first = 0 if only is None else only.image
        noisy = add_noise(images, self.sigma, self.seed, first_index=first) if self.degrade else images
        results = denoise(
            denoiser, noisy, self.sigma, draw=self.draw, times=self.times, sampler=self.sampler.build(),
            **varied(self.n, only), **common,
        )  # fmt: skip
        before = [images, noisy] if self.degrade else [noisy]
        return Made(results.reshape(len(images), -1, *images.shape[1:]), before)


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(DenoiseArgs, joined(args), "undye denoise", "Take Gaussian noise of a known level out of images.")
    if not 0 < a.sigma < math.inf:
        raise UserError("the noise's level must be known: give --sigma its standard deviation, of 255 grey levels")
    return main_of(a, Denoise.of)
