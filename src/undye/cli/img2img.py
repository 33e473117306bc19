"""`undye img2img MODEL IMAGE --strength S --out ...`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ImageOptions, steering
from undye.cli.edit_settings import ImageEdit, Made, Place, SamplerName, exact, varied
from undye.cli.parse import parse
from undye.cli.settings import joined

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Img2ImgArgs(ImageOptions):
    """The flags of `undye img2img`."""

    strength: float = 0.5
    """In (0, 1]: how far up the chain to go; the more, the less is left of the image."""
    n: int = 1
    """Results for each image."""
    sampler: str = "ancestral"
    """How to come down again: see `undye sample --help`."""
    steps: int | None = None
    """Steps on the way down (50 times the strength, at least 10)."""


@dataclass(frozen=True, kw_only=True)
class Img2Img(ImageEdit):
    """What `undye img2img` does, exactly; the strength is there to be read, the times are what it came to."""

    command: ClassVar[str] = "img2img"
    doing: ClassVar[str] = "img2img"
    strength: float
    times: tuple[float, ...]
    sampler: SamplerName

    @classmethod
    def of(cls, a: Img2ImgArgs, denoiser: "Denoiser") -> "Img2Img":
        """What the flags come to."""
        from undye.edit.grid import times_from
        from undye.edit.img2img import start_time

        num_steps = denoiser.schedule.num_steps
        times = exact(times_from(start_time(a.strength, num_steps), num_steps, a.steps))
        return cls(n=a.n, strength=a.strength, times=times, sampler=SamplerName.of(a.sampler), **steering(a, denoiser))

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        from undye.edit.img2img import img2img

        images = inputs.images
        assert images is not None
        results = img2img(
            denoiser, images, times=self.times, sampler=self.sampler.build(), **varied(self.n, only), **common
        )
        return Made(results.reshape(len(images), -1, *images.shape[1:]), [images])


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Turn images, strokes for example, into images of the model's kind that look like them (SDEdit)."
    return main_of(parse(Img2ImgArgs, joined(args), "undye img2img", about), Img2Img.of)
