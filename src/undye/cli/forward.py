"""`undye forward --data ... --out film.gif`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.parse import parse
from undye.config import ScheduleConfig
from undye.data.names import NAMED_DATASETS, parse_image_size
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ForwardArgs:
    """The flags of `undye forward`."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """A named data set, a folder of images, or an .npz / .npy file."""
    out: Annotated[str, tyro.conf.arg(metavar="FILM")] = ""
    """.gif plays the film, .png shows it as a strip, a row per image."""
    n: int = 8
    """How many images, the first of the data."""
    frames: int = 10
    """States beside the images themselves."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop the images to this; without it they stay as they are."""
    seed: int = 0
    """Names the noise."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(ForwardArgs, args, "undye forward", "Show how images dissolve into noise, step by step.")
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    if not a.out:
        raise UserError("nothing to write: give --out film.gif or strip.png")
    if a.n < 1:
        raise UserError(f"the number of images must be at least 1, got {a.n}")
    if a.seed < 0:
        raise UserError(f"the seed must be at least 0, got {a.seed}")
    size = parse_image_size(a.image_size) if a.image_size else None

    import sys

    import numpy as np

    from undye.data import load_images
    from undye.denoiser import build_schedule, signal_warning
    from undye.film_files import check_film, save_film
    from undye.films import forward_film

    check_film(Path(a.out))
    try:
        schedule = build_schedule(a.schedule)
    except ValueError as error:
        raise UserError(f"the schedule cannot be built: {error}") from None
    if (warning := signal_warning(a.schedule)) is not None:
        print(f"undye: warning: {warning}", file=sys.stderr)
    source = load_images(a.data, image_size=size, labels="none")
    images = source.images(np.arange(min(a.n, len(source))))
    save_film(forward_film(images, schedule, a.frames, a.seed), Path(a.out), last_seconds=1.0)
    print(a.out)
    return 0
