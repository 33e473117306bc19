"""Samples to files as they are finished: one PNG each, a grid, an array. Every file is whole or not there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from undye.captions import captioned_grid
from undye.files import atomic_path
from undye.pictures import check_target, enlarge, kind_of, make_grid, save_png
from undye.provenance import Provenance

ProvenanceOf = Callable[[range], Provenance]
"""How the samples of these numbers are made."""


class Writer(ABC):
    """Takes samples in any order and in batches of any size."""

    def __init__(self, path: Path, n: int, provenance: ProvenanceOf | None = None) -> None:
        self.path, self.n, self._provenance = path, n, provenance

    def provenance(self, numbers: range) -> Provenance | None:
        """How these samples are made, if it is known."""
        return None if self._provenance is None else self._provenance(numbers)

    @abstractmethod
    def add(self, numbers: range, images: UInt8[np.ndarray, "n h w c"]) -> None:
        """The samples of these numbers are finished."""

    def close(self) -> None:
        """All samples have been added."""
        return None


class FolderWriter(Writer):
    """One PNG per sample, written when its batch is finished: 000000.png, ..."""

    def add(self, numbers: range, images: UInt8[np.ndarray, "n h w c"]) -> None:
        """Write them."""
        self.path.mkdir(parents=True, exist_ok=True)
        for i, image in zip(numbers, images, strict=True):
            save_png(image, self.file(i), self.provenance(range(i, i + 1)))

    def file(self, number: int) -> Path:
        """Where sample `number` is."""
        return self.path / f"{number:06d}.png"

    def present(self) -> Iterator[tuple[int, Path]]:
        """The samples that are there already, and their numbers."""
        return ((i, f) for i in range(self.n) if (f := self.file(i)).exists())

    def missing(self) -> list[range]:
        """The samples that are not there yet, as runs of numbers."""
        runs: list[range] = []
        for i in range(self.n):
            if self.file(i).exists():
                continue
            if runs and runs[-1].stop == i:
                runs[-1] = range(runs[-1].start, i + 1)
            else:
                runs.append(range(i, i + 1))
        return runs


class _Collector(Writer):
    """Keeps the samples until all are there."""

    def __init__(self, path: Path, n: int, provenance: ProvenanceOf | None = None) -> None:
        super().__init__(path, n, provenance)
        self._parts: dict[int, np.ndarray] = {}

    def add(self, numbers: range, images: UInt8[np.ndarray, "n h w c"]) -> None:
        """Keep them."""
        self._parts[numbers.start] = images

    @property
    def images(self) -> UInt8[np.ndarray, "n h w c"]:
        """All that were added, in the order of their numbers."""
        return np.concatenate([self._parts[k] for k in sorted(self._parts)])


class GridWriter(_Collector):
    """A PNG with all samples side by side, with or without a caption each."""

    def __init__(
        self, path: Path, n: int, provenance: ProvenanceOf | None = None, captions: Sequence[str] | None = None
    ) -> None:
        super().__init__(path, n, provenance)
        self._captions = captions

    def close(self) -> None:
        """Write it."""
        sheet = make_grid(self.images) if self._captions is None else captioned_grid(self.images, self._captions)
        save_png(enlarge(sheet), self.path, self.provenance(range(self.n)))


class ArrayWriter(_Collector):
    """An .npz with the array `images`, and `labels` if they have any."""

    def __init__(
        self,
        path: Path,
        n: int,
        provenance: ProvenanceOf | None = None,
        labels: Integer[np.ndarray, " n"] | None = None,
    ) -> None:
        super().__init__(path, n, provenance)
        self._labels = labels

    def close(self) -> None:
        """Write it."""
        arrays = {"images": self.images} if self._labels is None else {"images": self.images, "labels": self._labels}
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def open_writer(
    out: str,
    n: int,
    provenance: ProvenanceOf | None = None,
    labels: Integer[np.ndarray, " n"] | None = None,
    captions: Sequence[str] | None = None,
    resume: bool = False,
) -> Writer:
    """The writer for the ending of `out`: .png a grid, .npz an array, none a folder of PNGs.

    Args:
        out: where to.
        n: how many samples there will be.
        provenance: how they are made; kept in PNGs.
        labels: their classes; kept in an .npz.
        captions: words for each, below it in a grid.
        resume: a folder may hold samples already.

    Raises:
        UserError: for another ending, or a place that cannot be written to.
    """
    check_target(out, resume)
    path = Path(out)
    match kind_of(out):
        case ".png":
            return GridWriter(path, n, provenance, captions)
        case ".npz":
            return ArrayWriter(path, n, provenance, labels)
        case _:
            return FolderWriter(path, n, provenance)


def save_images(images: UInt8[np.ndarray, "n h w c"], out: str | Path) -> None:
    """Write images that are all there, as the ending of `out` says."""
    writer = open_writer(str(out), len(images))
    writer.add(range(len(images)), images)
    writer.close()
