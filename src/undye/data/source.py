"""Where images come from: a fixed, indexed set of uint8 images of one size, with or without class labels."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from undye.data.names import show_size
from undye.data.report import BadFile, LoadReport, show_path
from undye.errors import UserError

Indices = Integer[np.ndarray, " n"]
_log = logging.getLogger("undye.data")


def _warn(bad: BadFile) -> None:
    _log.warning("skipped %s", bad)


class ImageSource(ABC):
    """A data set. The same index always gives the same image.

    Attributes:
        name: for messages; a name of the table, or a path.
        image_size: (height, width).
        channels: 1 or 3.
        class_names: one per class, or None where there are no labels.
        can_crop: whether `crops` may be asked for.
        on_bad: called, from any thread, for each image that turns out to be bad when it is asked for.
    """

    name: str
    image_size: tuple[int, int]
    channels: int
    class_names: tuple[str, ...] | None
    can_crop: bool = False
    on_bad: Callable[[BadFile], None] = staticmethod(_warn)

    @property
    @abstractmethod
    def report(self) -> LoadReport:
        """What was skipped, so far."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, a new array."""

    def crops(self, indices: Indices, at: Float64[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n h w c"]:
        """The same, each cut out at a place of its own: two numbers in [0, 1), see `resize.crop_box`.

        Raises:
            UserError: the pixels were cut out before.
        """
        raise UserError(
            f"random crops need images that are decoded when they are asked for, and those of {self.name} have their "
            "size already: leave --training.crop out, or give a folder or an archive of image files"
        )

    @abstractmethod
    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes, 0..num_classes-1, of the images at `indices`; None where there are no labels."""

    def names(self, indices: Indices) -> list[str]:
        """What a person would call the images at `indices`: the paths of files, else their numbers."""
        return [f"{self.name} image {i}" for i in indices]

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None where there are no labels."""
        return None if self.class_names is None else len(self.class_names)

    def describe(self) -> str:
        """One line, like `fashion-mini train: 10,000 images 28x28x1, 10 classes`."""
        bad = len(self.report.bad)
        classes = f", {self.num_classes} classes" if self.class_names is not None else ""
        skipped = f", {bad:,} skipped" if bad else ""
        return f"{self.name}: {len(self):,} images {show_size(self.image_size)}x{self.channels}{classes}{skipped}"


class ArraySource(ImageSource):
    """Images held in one array, in memory or mapped from a file."""

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int64[np.ndarray, " n"] | None = None,
        class_names: tuple[str, ...] | None = None,
        report: LoadReport | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        _, height, width, channels = images.shape
        self.name = name
        self.image_size = (height, width)
        self.channels = channels
        self.class_names = class_names if labels is not None else None
        self._images = images
        self._labels = labels
        self._report = report or LoadReport(total=len(images))
        self._paths = paths

    @property
    def report(self) -> LoadReport:
        """What was skipped; complete from the start."""
        return self._report

    def __len__(self) -> int:
        return len(self._images)

    def names(self, indices: Indices) -> list[str]:
        """The files they were decoded from, where there are any."""
        return super().names(indices) if self._paths is None else [show_path(self._paths[i]) for i in indices]

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, a new array."""
        return np.asarray(self._images[indices])

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes of the images at `indices`; None where there are no labels."""
        return None if self._labels is None else self._labels[indices]
