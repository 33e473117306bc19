"""`undye progressive MODEL --n 8 --out grid.png`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.edit_options import ModelOptions, common, open_model, write_results
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProgressiveArgs(ModelOptions):
    """The flags of `undye progressive`."""

    n: int | None = None
    """How many images (8), a row each; with --shared how many that share each x_t (8)."""
    frames: int = 10
    """Predictions of x_0 shown for each, from pure noise to the sample."""
    film: Annotated[str, tyro.conf.arg(metavar="FILM")] = ""
    """Also as a film: .gif plays it, .png shows it as a strip."""
    sampler: str = "ddim"
    """How to sample: see `undye sample --help`."""
    steps: int | None = None
    """Steps from T; without it the sampler's own number, with --shared 100."""
    shared: bool = False
    """Instead: samples that share their way down to x_t and go on alone (ancestral); x_t, then the samples."""
    t: tuple[int, ...] = ()
    """With --shared: the times t, a row each; without it T, 3/4 T, T/2 and T/4."""
    groups: int = 1
    """With --shared: ways down, all their rows."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "What the model takes the image to be while it samples, or samples that share their beginning."
    a = parse(ProgressiveArgs, joined(args), "undye progressive", about)
    n = 8 if a.n is None else a.n
    if not a.shared and (a.t or a.groups != 1):
        raise UserError("--t and --groups are for --shared: leave them out, or add it")
    if a.shared and (a.film or a.frames != 10 or a.sampler != "ddim"):
        raise UserError("--film, --frames and --sampler are not for --shared: leave them out")
    if a.film and a.film == a.out:
        raise UserError("--film and --out need different names")
    if a.film:
        from undye.film_files import check_film

        check_film(Path(a.film))
    denoiser = open_model(a)
    settings = common(a, denoiser)

    import numpy as np

    from undye.edit.progressive import progressive, shared_latents
    from undye.film_files import save_film

    with Progress("sampling", "network calls") as progress:
        if a.shared:
            found = shared_latents(
                denoiser, a.groups, n, a.t or None, steps=100 if a.steps is None else a.steps, progress=progress,
                **settings,
            )  # fmt: skip
            samples, latents = (x.reshape(-1, *x.shape[2:]) for x in (found.samples, found.latents))
            write_results(a.out, samples, latents)
            print(a.out)
            return 0
        frames = progressive(
            denoiser, n, a.frames, sampler=a.sampler, steps=a.steps, progress=progress, **settings
        )  # fmt: skip
    if a.film:
        save_film(frames, Path(a.film))
    write_results(a.out, np.stack(frames, axis=1))
    for path in filter(None, (a.out, a.film)):
        print(path)
    return 0
