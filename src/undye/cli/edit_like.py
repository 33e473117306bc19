"""`undye sample --like` of an edit's picture: what the picture says, checked, and done again.

A picture may come from anywhere. Nothing that it says is run or unpickled: it names settings, whose types and sizes are
checked, a model, and files to read images from. Where to write is the user's alone.
"""

import importlib
import math
from typing import TYPE_CHECKING, Any

from undye.cli.edit_command import FORMAT, check_targets, finish, join_world
from undye.cli.edit_inputs import InputNames, read_again
from undye.cli.edit_settings import Edit, Place
from undye.cli.sample_like import ModelSource, note_another, open_source, reading, source_in
from undye.errors import UserError
from undye.structure import structure

if TYPE_CHECKING:
    from undye.cli.sample import SampleArgs

EDITS = {
    "denoise": ("denoise", "Denoise"),
    "img2img": ("img2img", "Img2Img"),
    "inpaint": ("inpaint", "Inpaint"),
    "interpolate": ("interpolate", "Interpolate"),
    "interpolate --samples": ("interpolate", "InterpolateSamples"),
    "progressive": ("progressive", "Progressive"),
    "progressive --shared": ("progressive", "ProgressiveShared"),
    "restore": ("restore", "Restore"),
}
"""For each command that a picture may name, its module and class."""

_MOST = 1_000_000
"""The largest whole number that a picture may give for a setting, but for the seed: none of ours is near it, and a
strange one must not fill the memory. A sampler's options are for the sampler to check; some may be infinite."""


def again(a: "SampleArgs", found: dict[str, Any]) -> int:
    """Make an edit's picture again; returns the exit code.

    Args:
        a: the flags of `undye sample`.
        found: what the picture says.
    """
    said, edit, names, only = read_record(found, a.like)

    def check() -> None:
        for flag, given in (("captions", a.captions), ("resume", a.resume), ("frames", a.frames != 10)):
            if given:
                raise UserError(f"--{flag} is for pictures of undye sample, and {a.like} is of undye {edit.command}")
        if a.film and (edit.command != "progressive" or only is not None):
            raise UserError(f"{a.like} shows no film: leave --film out")
        check_targets(a.out, a.film)

    world = join_world(a.device, a.threads, check)
    denoiser, source = world.agreed(lambda: open_source(said, world.device, a.like, a.model))
    inputs = world.on_main(lambda: read_again(names, edit.shape(denoiser), a.like))
    if world.is_main:
        note_another(said, source, a.like)
    return finish(world, denoiser, source, edit, inputs, out=a.out, film=a.film, only=only, batch_size=a.batch_size)


def read_record(found: dict[str, Any], like: str) -> tuple[ModelSource, Edit, InputNames, Place | None]:
    """What an edit's picture says: model, settings, images, and which result it shows; None: all.

    Args:
        found: the picture's word.
        like: the picture, for error messages.

    Raises:
        UserError: if it was written by another version, or is not what undye would have written.
    """
    with reading():
        if found["command"] not in EDITS or found["format"] != FORMAT or isinstance(found["format"], bool):
            raise ValueError
        module, name = EDITS[found["command"]]
        kind: type[Edit] = getattr(importlib.import_module(f"undye.cli.{module}"), name)
        _check_sizes({k: v for k, v in dict(found["settings"]).items() if k not in ("seed", "sampler")})
        source = source_in(found)
        if source.runtime != "pytorch" or source.calibration or source.weights not in ("ema", "raw"):
            raise ValueError
        settings, inputs, result = found["settings"], found["inputs"], found["result"]
    try:
        edit = structure(kind, settings, "settings")
        names = structure(InputNames, inputs, "inputs")
        only = None if result is None else structure(Place, result, "result")
    except UserError as error:
        raise UserError(f"{like} was written by another version of undye, or was changed: {error}") from None
    with reading():
        if only is not None and (only.image < 0 or not 0 <= only.variation < edit.columns):
            raise ValueError
        wanted = 1 if only is None else len(edit.images_of(only.image))
        if (names.shape is not None and (len(names.images) < 1 or (only and len(names.images) != wanted))) or (
            edit.masked != (names.mask is not None)
        ):
            raise ValueError
    return source, edit, names, only


def _check_sizes(value: Any) -> None:
    """Raise a ValueError for a number that no edit has."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_sizes(inner)
    elif (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > _MOST):
        raise ValueError
