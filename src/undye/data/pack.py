"""A packed data set: decoded pixels in one file, mapped from the disk. Written by `packing.py`.

It is a safetensors file (`tensor_file.py`): `images`, uint8 (N, H, W, C); `labels`, int64 (N,), where there are
classes; `names` and `name_ends`, what the images were made from (`name_list.py`). Its metadata holds the names of the
classes and a sha256 of all the arrays. The processes of a machine share its pages; it may be larger than the memory.
While a run uses the file, it must not be cut short: the system ends a process that reads beyond a mapped file's end.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.arrays import check_labels
from undye.data.colour import to_channels
from undye.data.name_list import NameList
from undye.data.names import show_size
from undye.data.report import LoadReport, show_path
from undye.data.source import ImageSource, Indices
from undye.data.tensor_file import read_tensors
from undye.errors import UserError

PACK_SUFFIX = ".pack"
VERSION = "1"
_CHUNK = 2**24


class PackSource(ImageSource):
    """The images of a packed file, copied out of it when they are asked for."""

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "n h w c"],
        channels: int,
        labels: Int64[np.ndarray, " n"] | None,
        class_names: tuple[str, ...] | None,
        names: Sequence[str],
    ) -> None:
        self.name = name
        self.image_size = (images.shape[1], images.shape[2])
        self.channels = channels
        self.class_names = class_names
        self._images = images
        self._labels = labels
        self._names = names

    @classmethod
    def open(
        cls, path: Path, image_size: tuple[int, int] | None, channels: Literal[1, 3] | None, with_labels: bool = True
    ) -> "PackSource":
        """Maps a file; only its header is read. `verify` reads all of it.

        Args:
            path: the file.
            image_size: must be that of the file, or None.
            channels: grey images may be asked for in colour and the other way round.
            with_labels: hand out the labels, if it has any.

        Raises:
            UserError: no such file, damaged, or of another size.
        """
        name = show_path(path)
        images, labels, class_names, names, _ = _read(path)
        size = (images.shape[1], images.shape[2])
        if image_size is not None and image_size != size:
            raise UserError(
                f"{name} holds {show_size(size)} images: leave --image-size out, or pack the data again with "
                f"--image-size {show_size(image_size)}"
            )
        if not with_labels:
            labels = class_names = None
        return cls(name, images, channels or images.shape[3], labels, class_names, names)

    @property
    def report(self) -> LoadReport:
        """Nothing is skipped: bad images were left out when it was packed."""
        return LoadReport(len(self))

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`, a new array."""
        return to_channels(np.array(self._images[indices]), self.channels)

    def names(self, indices: Indices) -> list[str]:
        """What they were made from."""
        return [show_path(self._names[i]) for i in indices.tolist()]

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes of the images at `indices`; None where there are no labels."""
        return None if self._labels is None else self._labels[indices]


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Reads all of a packed file and compares it with its checksum.

    Args:
        path: the file.
        progress: called with (bytes done, bytes in all).

    Returns:
        The sha256 of its arrays.

    Raises:
        UserError: it is damaged.
    """
    path = Path(path).expanduser()
    *_, about = _read(path)
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        start = done = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        while block := file.read(_CHUNK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
    if digest.hexdigest() != about.get("sha256"):
        raise UserError(f"{show_path(path)} is damaged: its checksum is wrong; pack the data again")
    return digest.hexdigest()


def _read(
    path: Path,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None, NameList, dict[str, str]]:
    """Images, labels, names of the classes and of the images, and the metadata; checked."""
    name = show_path(path)
    try:
        tensors, about = read_tensors(path)
    except UserError as error:
        raise UserError(f"cannot read {name}: {error}; pack the data again") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from None
    try:
        if about.get("undye-pack") != VERSION:
            raise UserError(f"{name} was not written by undye data pack, or by a later version of it")
        images, names = tensors["images"], NameList(tensors["names"], tensors["name_ends"])
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
            raise ValueError(f"images of shape {images.shape}")
        if len(names) != len(images):
            raise ValueError(f"{len(names):,} names for {len(images):,} images")
        if "labels" not in tensors:
            return images, None, None, names, about
        labels = check_labels(name, tensors["labels"], len(images))
        class_names = json.loads(about["class_names"])
        if not all(type(c) is str for c in class_names) or labels.max() >= len(class_names):
            raise ValueError("names of classes that do not fit the labels")
        return images, labels, tuple(map(show_path, class_names)), names, about
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is damaged: {error}; pack the data again") from None
