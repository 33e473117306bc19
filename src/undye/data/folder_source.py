"""Image files that are decoded each time they are asked for: for folders that are too large to be decoded whole.

A file that only then turns out to be bad is named, and the next good file (of its class, if there are classes) takes
its place: the same one in every run, whatever was asked for before.
"""

import logging
import threading
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.colour import BadImageError, to_channels
from undye.data.decode import read_pixels
from undye.data.report import BadFile, LoadReport, show_path
from undye.data.source import ImageSource, Indices
from undye.data.workers import in_threads
from undye.errors import UserError

_log = logging.getLogger("undye.data")


class FolderSource(ImageSource):
    """Image files that are decoded each time they are asked for."""

    def __init__(
        self,
        name: str,
        root: Path,
        paths: list[Path],
        image_size: tuple[int, int],
        channels: int,
        labels: Int64[np.ndarray, " n"] | None,
        class_names: tuple[str, ...] | None,
        report: LoadReport,
        max_bad_fraction: float,
    ) -> None:
        self.name = name
        self.image_size = image_size
        self.channels = channels
        self.class_names = class_names
        self._root = root
        self._paths = paths
        self._labels = labels
        self._known = report
        self._max_bad_fraction = max_bad_fraction
        self._bad: dict[int, BadFile] = {}  # found after the first look, by index
        self._lock = threading.Lock()

    @property
    def report(self) -> LoadReport:
        """What was skipped so far; grows as images are asked for."""
        with self._lock:
            later = tuple(self._bad[i] for i in sorted(self._bad))
        return LoadReport(self._known.total, self._known.bad + later)

    def __len__(self) -> int:
        return len(self._paths)

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, decoded now.

        Raises:
            TooManyBadImages: the bad files found so far are more than the stated fraction of all.
        """
        pixels = np.empty((len(indices), *self.image_size, self.channels), dtype=np.uint8)
        for row, image in enumerate(in_threads(self._image, np.arange(len(self))[indices].tolist())):
            pixels[row] = image
        return pixels

    def names(self, indices: Indices) -> list[str]:
        """Their files, below the folder."""
        return [show_path(self._paths[i]) for i in indices]

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes of the images at `indices`; None where there are no labels."""
        return None if self._labels is None else self._labels[indices]

    def _image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        # A stand-in has the class of what it stands for, so that labels need no decoding.
        for candidate in chain(range(index, len(self)), range(index)):
            if candidate in self._bad or (self._labels is not None and self._labels[candidate] != self._labels[index]):
                continue
            try:
                return to_channels(read_pixels(self._root / self._paths[candidate], self.image_size), self.channels)
            except BadImageError as error:
                self._add(candidate, BadFile(self._paths[candidate], str(error)))
        raise UserError(f"{self.name}: no readable image left in the class of {show_path(self._paths[index])}")

    def _add(self, index: int, bad: BadFile) -> None:
        with self._lock:
            if index in self._bad:
                return
            self._bad[index] = bad
        _log.warning("skipped %s", bad)
        self.report.check(self._max_bad_fraction)
