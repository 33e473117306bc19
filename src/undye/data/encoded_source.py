"""Images that are decoded each time they are asked for: for what is too large to be decoded whole.

One that only then turns out to be bad is named, and the next good one (of its class, if there are classes) takes its
place: the same one in every run, whatever was asked for before.
"""

import threading
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from undye.data.colour import BadImageError, to_channels
from undye.data.decode import read_pixels, reason
from undye.data.members import Members
from undye.data.report import BadFile, LoadReport, show_path
from undye.data.resize import CENTRE
from undye.data.source import ImageSource, Indices
from undye.errors import UserError

Place = tuple[float, float]


class EncodedSource(ImageSource):
    """Image files, members of archives or rows, decoded each time they are asked for, in the caller's thread."""

    can_crop = True

    def __init__(
        self,
        members: Members,
        chosen: Int64[np.ndarray, " n"],
        image_size: tuple[int, int],
        channels: int,
        labels: Int64[np.ndarray, " n"] | None,
        class_names: tuple[str, ...] | None,
        report: LoadReport,
        max_bad_fraction: float,
    ) -> None:
        """`chosen` are the numbers of the members that were good so far; `labels` are theirs."""
        self.name = members.name
        self.image_size = image_size
        self.channels = channels
        self.class_names = class_names
        self._members = members
        self._chosen = chosen
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
        return len(self._chosen)

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, decoded now.

        Raises:
            TooManyBadImages: the bad ones found so far are more than the stated fraction of all.
        """
        return self._decoded(indices, [CENTRE] * len(indices))

    def crops(self, indices: Indices, at: Float64[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n h w c"]:
        """The same, each cut out at a place of its own."""
        return self._decoded(indices, [(down, across) for down, across in at.tolist()])

    def names(self, indices: Indices) -> list[str]:
        """Their files, below the folder or in the archive."""
        return [show_path(self._name(i)) for i in indices.tolist()]

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes of the images at `indices`; None where there are no labels."""
        return None if self._labels is None else self._labels[indices]

    def decode(self, index: int, at: Place = CENTRE) -> UInt8[np.ndarray, "h w c"] | BadFile:
        """One image, or why there is none; nothing stands in for it."""
        try:
            pixels = read_pixels(self._members.read(int(self._chosen[index])), self.image_size, at)
        except (BadImageError, OSError) as error:
            return BadFile(Path(self._name(index)), reason(error))
        return to_channels(pixels, self.channels)

    def _decoded(self, indices: Indices, at: list[Place]) -> UInt8[np.ndarray, "n h w c"]:
        pixels = np.empty((len(indices), *self.image_size, self.channels), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            pixels[row] = self._image(index % len(self), at[row])
        return pixels

    def _image(self, index: int, at: Place) -> UInt8[np.ndarray, "h w c"]:
        # A stand-in has the class of what it stands for, so that labels need no decoding.
        for candidate in chain(range(index, len(self)), range(index)):
            if candidate in self._bad or (self._labels is not None and self._labels[candidate] != self._labels[index]):
                continue
            found = self.decode(candidate, at)
            if not isinstance(found, BadFile):
                return found
            self._add(candidate, found)
        raise UserError(f"{self.name}: no readable image left in the class of {show_path(self._name(index))}")

    def _name(self, index: int) -> str:
        return self._members.names[int(self._chosen[index])]

    def _add(self, index: int, bad: BadFile) -> None:
        with self._lock:
            if index in self._bad:
                return
            self._bad[index] = bad
        self.on_bad(bad)
        self.report.check(self._max_bad_fraction)
