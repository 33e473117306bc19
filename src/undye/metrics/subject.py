"""What is measured: a model, or images that another tool has made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undye.checkpoint.diffusers import is_diffusers
from undye.checkpoint.load import is_foreign, load
from undye.checkpoint.native import CONFIG, WeightsName, find_checkpoint, read_about
from undye.data.archives import is_archive
from undye.data.folder import find_shards
from undye.data.hub import is_saved_dataset
from undye.data.listing import has_images
from undye.data.names import HUB, NAMED_DATASETS
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.structure import unstructure

Model = str | PathLike[str] | Denoiser | np.ndarray
_CHECKPOINTS = (".pth.tar", ".pt.tar", ".ckpt.tar", ".bin.tar")


@dataclass(frozen=True)
class Subject:
    """A model, or None and images to load.

    Attributes:
        name: what a person calls it.
        denoiser: the model, loaded; None of images.
        images: for `undye.load_images`; None of a model.
        about: what a report says of it.
        weights: which of the checkpoint's weights; None where there is no choice.
    """

    name: str
    denoiser: Denoiser | None = None
    images: str | PathLike[str] | np.ndarray | None = None
    about: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None

    @classmethod
    def find(
        cls,
        what: Model,
        device: str | torch.device = "cpu",
        weights: WeightsName = "ema",
        settings: Mapping[str, Any] | None = None,
    ) -> "Subject":
        """A model, loaded; or images: a folder, an archive, an array or its file, a named data set.

        Raises:
            UserError: if it is neither, or the model cannot be loaded.
        """
        if isinstance(what, Denoiser):
            about = {"checkpoint": None, "weights": None, "config": unstructure(what.config)}
            return cls("model", what, about=about)
        if is_images(what):
            if settings or weights != "ema":
                raise UserError(f"{_name(what)} holds images: --set and --weights are for models, leave them out")
            about = {"checkpoint": None, "weights": None, "images": _name(what)}
            return cls(_name(what), images=what, about=about)
        assert not isinstance(what, np.ndarray)
        path = Path(what)
        foreign = is_foreign(path)
        folder = path if foreign else checkpoint_of(path)
        known = {} if foreign else read_about(folder)
        denoiser = load(folder, device, settings, weights)
        chosen = None if foreign else weights
        about = {"checkpoint": str(folder), **known, "weights": chosen, "config": unstructure(denoiser.config)}
        return cls(str(what), denoiser, about=about, weights=chosen)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint folder of what holds no images.

    Raises:
        UserError: if it holds no model either.
    """
    if path.is_dir() and not any((path / name).exists() for name in (CONFIG, "checkpoints")):
        raise UserError(
            f"{path} holds neither images nor a model: a run folder has checkpoints/, a checkpoint folder {CONFIG}"
        )
    return find_checkpoint(path)


def is_images(what: str | PathLike[str] | np.ndarray) -> bool:
    """Whether something holds images rather than a model, by its kind and name alone."""
    if isinstance(what, np.ndarray):
        return True
    path = Path(what)
    if path.is_dir():
        if (path / CONFIG).exists() or (path / "checkpoints").is_dir() or is_diffusers(path):
            return False
        return has_images(path) or bool(find_shards(path)) or is_saved_dataset(path)
    if path.exists():
        if path.name.lower().endswith(_CHECKPOINTS):
            return False
        return path.suffix.lower() in (".npz", ".npy", ".pack") or is_archive(path)
    return isinstance(what, str) and (what in NAMED_DATASETS or what.startswith(HUB))


def _name(what: str | PathLike[str] | np.ndarray) -> str:
    return "array" if isinstance(what, np.ndarray) else str(what)
