"""An editing command: from exact settings to files that say how they were made.

`undye inpaint ...` and its like make an `Edit` of their flags; `undye sample --like` makes one of what a picture says.
From there on both go the same way. The work is shared between the processes that a launcher has started.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from undye.cli.edit_options import ImageOptions, ModelOptions
from undye.cli.edit_settings import Edit, Made, Place, model_shape
from undye.cli.progress import Progress
from undye.errors import UserError
from undye.structure import unstructure

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.cli.sample_like import ModelSource
    from undye.denoiser import Denoiser
    from undye.provenance import Provenance
    from undye.world import World

FORMAT = 1
"""Of what an edit's picture says; another number is another version's."""


A = TypeVar("A", bound=ModelOptions)


def main_of(a: A, resolve: "Callable[[A, Denoiser], Edit]", film: str = "", mask: str = "") -> int:
    """Run an editing command; returns the exit code.

    Args:
        a: its flags.
        resolve: from flags to exact settings.
        film: a film to write too, of an edit that has frames.
        mask: a mask's file, of an edit that has one.
    """

    def check() -> None:
        if not a.out:
            raise UserError("nothing to write: give --out grid.png, images.npz or a folder")
        if not Path(a.model).exists():
            raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")
        check_targets(a.out, film)

    world = join_world(a.device, a.threads, check)

    from undye.cli.edit_inputs import Inputs, read_inputs
    from undye.cli.sample_like import ModelSource, open_source

    source = ModelSource(model=a.model, weights=a.weights, set=a.set)
    denoiser, source = world.agreed(lambda: open_source(source, world.device))
    edit = world.agreed(lambda: resolve(a, denoiser))

    def read() -> Inputs:
        shape = edit.shape(denoiser)
        return Inputs() if shape is None or not isinstance(a, ImageOptions) else read_inputs(a, shape, mask)

    # the others get what the main process has read: the same images, and a file may be on its machine alone
    inputs = world.on_main(read)
    return finish(world, denoiser, source, edit, inputs, out=a.out, film=film, batch_size=a.batch_size)


def check_targets(out: str, film: str) -> None:
    """Raise a UserError for a file or folder that cannot be written."""
    from undye.film_files import check_film
    from undye.pictures import check_target

    if out:
        check_target(out)
    if film:
        check_film(Path(film))
        if out and Path(film) == Path(out):
            raise UserError("--film and --out need different names")


def join_world(device: str, threads: int, check: Callable[[], None]) -> "World":
    """This process among the others, after all that can be known to be wrong before anything large is read.

    Raises:
        UserError: from `check`, in one of the processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not launched:
        check()  # before the slow imports
    from undye.device import set_threads
    from undye.world import World

    set_threads(threads or None)
    world = World(device or None)
    if launched:
        world.agreed(check)
    return world


def finish(
    world: "World",
    denoiser: "Denoiser",
    source: "ModelSource",
    edit: Edit,
    inputs: "Inputs",
    *,
    out: str,
    film: str = "",
    only: Place | None = None,
    batch_size: int | None = None,
) -> int:
    """Make the results with all processes, write them with one; returns the exit code."""
    with Progress(edit.doing, "network calls", quiet=not world.is_main) as progress:
        common = {
            "seed": edit.seed, "label": edit.label, "guidance": edit.guidance, "batch_size": batch_size,
            "progress": progress, "world": world,
        }  # fmt: skip

        def make() -> Made:
            _check_memory(edit, denoiser, len(inputs.names.images), only)
            return edit.make(denoiser, inputs, only, common)

        made = world.agreed(make)
    if not world.is_main:
        return 0

    def provenance(place: Place | None) -> "Provenance":
        return record(source, edit, inputs, place, narrowed=only is not None)

    if film:
        from undye.film_files import save_film

        save_film(list(made.results.swapaxes(0, 1)), Path(film), provenance=provenance(None))
    if out:
        _write(out, made, only, provenance)
    for path in filter(None, (out, film)):
        print(path)
    return 0


def _check_memory(edit: Edit, denoiser: "Denoiser", images: int, only: Place | None) -> None:
    """Raise a UserError for more results than the memory can hold."""
    from undye.cli.memory import check_memory

    count = edit.columns * (edit.rows(images) if only is None else 1)
    height, width, channels = model_shape(denoiser)
    # what goes in and what comes out, in float32, are in memory together
    check_memory(count, 8 * height * width * channels, f"results of {height}x{width}")


def record(
    source: "ModelSource", edit: Edit, inputs: "Inputs", place: Place | None, narrowed: bool = False
) -> "Provenance":
    """What a picture says: of all results, or of the one at `place`.

    Args:
        source: the model.
        edit: the settings.
        inputs: the images.
        place: which result it shows; None: all.
        narrowed: whether `inputs` are those of this result alone.
    """
    from undye.metrics.versions import versions

    names = inputs.names
    if place is not None and names.images and not narrowed:
        names = inputs.part_names(edit.images_of(place.image))
    return {
        **versions(), "command": edit.command, "format": FORMAT, **asdict(source), "settings": unstructure(edit),
        "inputs": unstructure(names), "result": unstructure(place),
    }  # fmt: skip


def _write(out: str, made: Made, only: Place | None, provenance: "Callable[[Place | None], Provenance]") -> None:
    """Results as the ending of `out` says; in a grid each image has a row: what went in, then what came out of it."""
    import numpy as np

    from undye.data.colour import to_channels
    from undye.pictures import enlarge, kind_of, make_grid, save_png
    from undye.writers import open_writer

    columns, path = made.results.shape[1], Path(out)
    images = made.results.reshape(-1, *made.results.shape[2:])
    if kind_of(out) != ".png":

        def of(numbers: range) -> "Provenance":
            row, column = divmod(numbers.start, columns)
            return provenance(only or Place(image=row, variation=column))

        writer = open_writer(out, len(images), of)
        writer.add(range(len(images)), images)
        writer.close()
        return
    if only is not None:
        # a picture of a folder comes out as it was
        save_png(images[0], path, provenance(only))
        return
    before, after = (
        [to_channels(side, images.shape[3])[:, None] for side in sides]  # pyrefly: ignore - 1 or 3 channels
        for sides in (made.before, made.after)
    )
    sheet = np.concatenate([*before, made.results, *after], axis=1)
    save_png(enlarge(make_grid(sheet.reshape(-1, *sheet.shape[2:]), sheet.shape[1])), path, provenance(None))
