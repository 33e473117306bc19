"""`undye img2img MODEL IMAGE --strength S --out ...`."""

from dataclasses import dataclass

from undye.cli.edit_options import ImageOptions, common, model_shape, open_model, read_images, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined


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


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Turn images, strokes for example, into images of the model's kind that look like them (SDEdit)."
    a = parse(Img2ImgArgs, joined(args), "undye img2img", about)
    denoiser = open_model(a)

    from undye.edit.img2img import img2img

    images = read_images(a, model_shape(denoiser))
    with Progress("img2img", "network calls") as progress:
        results = img2img(
            denoiser, images, a.strength, variations=a.n, sampler=a.sampler, steps=a.steps, progress=progress,
            **common(a, denoiser),
        )  # fmt: skip
    write_results(a.out, results.reshape(len(images), a.n, *images.shape[1:]), images)
    print(a.out)
    return 0
