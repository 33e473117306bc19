"""The flags that the editing commands share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.settings import Set

if TYPE_CHECKING:
    from undye.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The flags of every edit."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """grid.png (what went in beside what came out), images.npz or a folder (what came out alone). Every PNG says inside
    how it was made: undye sample --like PICTURE.png makes it again."""
    seed: int = 0
    """Names all that is random; a result does not depend on the others made with it."""
    label: str = ""
    """A class by number or name; for models that were trained with labels."""
    guidance: float = 1.0
    """Classifier-free guidance: above 1 exaggerates the class."""
    batch_size: int | None = None
    """Images at a time; without it chosen by their size and the memory there is."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ModelOptions):
    """The flags of an edit of images."""

    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE")] = ()
    """Image files, or .npz / .npy arrays of images."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """Take images of a data set instead: those that --index says."""
    index: tuple[int, ...] = (0,)
    """Numbers of the images to take of --data, from 0."""
    split: Literal["train", "test"] = "test"
    """The part of a named data set to take them of."""
    fit: bool = False
    """Resize, crop and convert the images to what the model is for."""


def steering(a: ModelOptions, denoiser: "Denoiser") -> dict[str, Any]:
    """The settings that every edit has."""
    from undye.cli.labels import class_number

    label = class_number(a.label, denoiser.config.class_names, denoiser.config.num_classes)
    return {"seed": a.seed, "label": label, "guidance": a.guidance}
