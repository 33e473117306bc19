"""What was found out about large folders and archives, kept so that the next start takes seconds.

An index holds the names of the images, where they lie, and what their headers say; one file per folder or archive below
`cache.index_cache()`, never beside the data. It is used only while its stamp holds:

- A folder: no folder below it has changed (time of change and inode: a file added, removed, renamed or replaced by a
  rename shows there), and `SAMPLED` of its files, spread evenly, have their old size and time of change.
  Not noticed: other files overwritten in place. If such a file is no image any more, or was deleted since, it is named
  when it is opened; if its size has changed, it is resized and cropped like any other.
- An archive: its size, time of change and inode.

A change just before the reading may carry the same time as one during it, so nothing is kept of what is younger than
`SETTLED` seconds. A damaged index is made anew; a cache that cannot be written is done without.
"""

import hashlib
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64

from undye.data.cache import index_cache
from undye.data.name_list import NameList
from undye.data.tensor_file import read_tensors, write_tensors
from undye.errors import UserError
from undye.files import atomic_path

SAMPLED = 256
SETTLED = 2.0
_VERSION = "1"

_log = logging.getLogger("undye.data")


class Stamp(ABC):
    """What must still be so. `tensors` and `holds` are each other's counterparts."""

    key: str

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray] | None:
        """What to compare with later; None: too young to be trusted."""

    @abstractmethod
    def holds(self, kept: Mapping[str, np.ndarray]) -> bool:
        """Whether all is as it was."""


class FolderStamp(Stamp):
    """Of a folder. To ask whether an old one holds, it is made without a listing."""

    def __init__(
        self,
        root: Path,
        folders: Mapping[str, tuple[int, int]] | None = None,
        names: Sequence[str] = (),
        started: float = 0.0,
        part: str = "",
    ) -> None:
        self.key = f"folder {os.path.abspath(root)} {part}"
        self._root, self._folders, self._names, self._started = root, folders, names, started

    def tensors(self) -> dict[str, np.ndarray] | None:
        """Folders with their times and inodes, and a sample of the files with sizes and times."""
        if not self._folders or max(t for t, _ in self._folders.values()) > (self._started - SETTLED) * 1e9:
            return None
        chosen = np.unique(np.linspace(0, len(self._names) - 1, SAMPLED).astype(np.int64))
        files = NameList.of(self._names[i] for i in chosen)
        folders = NameList.of(self._folders)
        return {
            "stamp_folders": folders.text,
            "stamp_folder_ends": folders.ends,
            "stamp_times": np.array(list(self._folders.values()), dtype=np.int64).reshape(-1, 2),
            "stamp_files": files.text,
            "stamp_file_ends": files.ends,
            "stamp_file_times": np.array([self._status(name) for name in files], dtype=np.int64).reshape(-1, 2),
        }

    def holds(self, kept: Mapping[str, np.ndarray]) -> bool:
        """Whether no folder and no file of the sample has changed."""
        try:
            folders = NameList(kept["stamp_folders"], kept["stamp_folder_ends"])
            for name, (changed, inode) in zip(folders, kept["stamp_times"].tolist(), strict=True):
                status = os.stat(self._root / name)
                if (status.st_mtime_ns, status.st_ino) != (changed, inode):
                    return False
            files = NameList(kept["stamp_files"], kept["stamp_file_ends"])
            return all(
                self._status(name) == tuple(was)
                for name, was in zip(files, kept["stamp_file_times"].tolist(), strict=True)
            )
        except OSError:
            return False

    def _status(self, name: str) -> tuple[int, int]:
        try:
            status = os.stat(self._root / name)
        except OSError:
            return -1, -1  # a link to nothing stays one
        return status.st_size, status.st_mtime_ns


class KeptStamp(Stamp):
    """One that was found to hold, to be kept again as it was."""

    def __init__(self, key: str, kept: Mapping[str, np.ndarray]) -> None:
        self.key = key
        self._kept = {name: array for name, array in kept.items() if name.startswith("stamp_")}

    def tensors(self) -> dict[str, np.ndarray]:
        """As they were."""
        return self._kept

    def holds(self, kept: Mapping[str, np.ndarray]) -> bool:
        """It was asked already."""
        return True


class FilesStamp(Stamp):
    """Of archives: the size, time of change and inode of each file."""

    def __init__(self, paths: Sequence[Path], part: str = "") -> None:
        self.key = "\n".join(("files", *map(os.path.abspath, paths), part))
        self._paths, self._started = paths, time.time()
        self._now = self._statuses()

    def tensors(self) -> dict[str, np.ndarray] | None:
        """One row per file."""
        if self._now[:, 1].max() > (self._started - SETTLED) * 1e9:
            return None
        return {"stamp_archives": self._now}

    def holds(self, kept: Mapping[str, np.ndarray]) -> bool:
        """Whether they are as they were."""
        return np.array_equal(kept["stamp_archives"], self._now)

    def _statuses(self) -> Int64[np.ndarray, "files 3"]:
        found = [os.stat(path) for path in self._paths]
        return np.array([(s.st_size, s.st_mtime_ns, s.st_ino) for s in found], dtype=np.int64).reshape(-1, 3)


@dataclass
class Headers:
    """What the images' headers say.

    Attributes:
        sizes: (height, width) of each; 0 where it cannot be read.
        grey: whether its mode holds no colour.
        bad: why one cannot be read.
        colour: by size, whether any image has colour.
        kept: whether the index says all of this already.
    """

    sizes: Int32[np.ndarray, "n 2"]
    grey: Bool[np.ndarray, " n"]
    bad: dict[int, str]
    colour: dict[str, bool] = field(default_factory=dict)
    kept: bool = False


@dataclass(frozen=True)
class Kept:
    """An index that holds: what the members need to be made again, and their headers."""

    tensors: dict[str, np.ndarray]
    headers: Headers
    about: dict[str, str]


def find_index(stamp: Stamp) -> Kept | None:
    """The index, if there is one and its stamp holds."""
    path = _path(stamp)
    try:
        tensors, about = read_tensors(path)
        if about.get("undye-index") != _VERSION or about.get("key") != _shown(stamp.key) or not stamp.holds(tensors):
            return None
        # in memory: a new index may take this one's place while it is in use
        tensors = {name: np.array(array) for name, array in tensors.items() if not name.startswith("_")}
        bad = {int(k): str(v) for k, v in json.loads(about["bad"]).items()}
        sizes, grey = tensors["sizes"], tensors["grey"].view(np.bool_)
        if sizes.shape != (len(grey), 2) or not all(0 <= k < len(grey) for k in bad):
            return None
        return Kept(tensors, Headers(sizes, grey, bad, json.loads(about["colour"]), kept=True), about)
    except FileNotFoundError:
        return None
    except (UserError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        _log.info("the index %s is made anew: %s", path, error)
        return None


def keep_index(
    stamp: Stamp, tensors: Mapping[str, np.ndarray], headers: Headers, about: Mapping[str, str] | None = None
) -> None:
    """Writes the index, if it can be trusted and written."""
    path = _path(stamp)
    try:
        stamped = stamp.tensors()
        if stamped is None:
            return
        everything = {**tensors, **stamped, "sizes": headers.sizes, "grey": headers.grey.view(np.uint8)}
        metadata = {
            **(about or {}),
            "undye-index": _VERSION,
            "key": _shown(stamp.key),
            "bad": json.dumps(headers.bad),
            "colour": json.dumps(headers.colour),
        }
        with atomic_path(path) as temporary:
            write_tensors(temporary, everything, metadata)
    except OSError as error:
        _log.info("the index %s cannot be written: %s", path, error)


def _path(stamp: Stamp) -> Path:
    return index_cache() / f"{hashlib.sha256(os.fsencode(stamp.key)).hexdigest()[:32]}.safetensors"


def _shown(key: str) -> str:
    """A key as JSON can hold it."""
    return hashlib.sha256(os.fsencode(key)).hexdigest()
