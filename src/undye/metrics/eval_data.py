"""The images of an evaluation: the reference set, the training images, those that are measured; each loaded once."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data import load_images
from undye.data.archives import is_archive
from undye.data.names import show_size
from undye.data.report import LoadReport
from undye.data.source import ImageSource, Indices
from undye.errors import UserError
from undye.metrics.findings import ProgressOf, ticker
from undye.metrics.likelihoods import chosen_rows

Images = str | PathLike[str] | np.ndarray
LabelsRule = Literal["auto", "folders", "none"]


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """What `undye.evaluate` is told of its images; its arguments of the same names."""

    data: Images
    held_out: Images | None = None
    split: Literal["train", "test"] = "test"
    labels: LabelsRule = "none"
    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    upscale: bool = False
    progress: ProgressOf | None = None
    _loaded: dict[tuple[Any, ...], ImageSource] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What a person calls the data."""
        return "array" if isinstance(self.data, np.ndarray) else str(self.data)

    def likelihood(self) -> ImageSource:
        """What a model is asked about: with labels only where they were asked for."""
        return self._load(self.data, self.split, self.labels)

    def reference(self, with_labels: bool = False) -> ImageSource:
        """What samples are compared with."""
        return self._load(self.data, self.split, self._labels_of(self.data) if with_labels else "none")

    def train(self) -> ImageSource:
        """What the model was trained on."""
        return self._load(self.data, "train", "none")

    def unseen(self) -> ImageSource:
        """Images like those that it was not trained on.

        Raises:
            UserError: where there are none.
        """
        if self.held_out is not None:
            return self._load(self.held_out, "test", "none")
        found = self._load(self.data, "test", "none")
        if found.name == self.train().name:
            raise UserError("memorization compares with images that the model was not trained on: give --held-out")
        return found

    def measured(self, images: Images, like: ImageSource, n: int | None, seed: int, with_labels: bool) -> ImageSource:
        """Images in place of a model's samples: n of them, by the seed; all of them for None.

        Raises:
            UserError: if they are not `like` the others in size and channels.
        """
        # grey images are colour ones too; the other way round something would be lost
        channels = self.channels or (3 if like.channels == 3 else None)
        found = load_images(
            images, split="train", image_size=self.image_size, channels=channels, upscale=self.upscale,
            labels=self._labels_of(images) if with_labels else "none", progress=ticker(self.progress, "loading"),
        )  # fmt: skip
        if (found.image_size, found.channels) != (like.image_size, like.channels):
            what, other = (f"{show_size(x.image_size)} with {_channels(x.channels)}" for x in (found, like))
            raise UserError(
                f"the images of {found.name} are {what}, those of {like.name} {other}: bring both to one kind with "
                f"--image-size {show_size(like.image_size)} --channels {like.channels}"
            )
        return found if n is None or n >= len(found) else Rows(found, chosen_rows(found, n, seed))

    @property
    def resize(self) -> str:
        """What was done to the images' size, in words."""
        if self.image_size is None:
            return "none: images as they are"
        return f"to {show_size(self.image_size)}: Lanczos, antialiased, centre crop"

    def _labels_of(self, what: Images) -> LabelsRule:
        """Folders' names where they were asked for and are there; else what the data bring."""
        if self.labels != "folders" or isinstance(what, np.ndarray):
            return "auto"
        path = Path(what)
        return "folders" if path.is_dir() or is_archive(path) else "auto"

    def _load(self, what: Images, split: Literal["train", "test"], labels: LabelsRule) -> ImageSource:
        key = (id(what), split, labels)
        if key not in self._loaded:
            self._loaded[key] = load_images(
                what, split=split, image_size=self.image_size, channels=self.channels, labels=labels,
                upscale=self.upscale, progress=ticker(self.progress, "loading"),
            )  # fmt: skip
        return self._loaded[key]


class Rows(ImageSource):
    """Some of the images of another source."""

    def __init__(self, source: ImageSource, rows: Int64[np.ndarray, " n"]):
        self._source, self._rows = source, rows
        self.name, self.image_size, self.channels = source.name, source.image_size, source.channels
        self.class_names = source.class_names

    @property
    def report(self) -> LoadReport:
        """That of the source."""
        return self._source.report

    def __len__(self) -> int:
        return len(self._rows)

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, a new array."""
        return self._source.images(self._rows[indices])

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """Their classes; None where there are no labels."""
        return self._source.labels(self._rows[indices])

    def names(self, indices: Indices) -> list[str]:
        """As the source calls them."""
        return self._source.names(self._rows[indices])


def _channels(count: int) -> str:
    return f"{count} channel{'s' if count > 1 else ''}"
