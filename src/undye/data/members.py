"""Encoded images that can be read one by one, by number: the files of a folder, the members of an archive, rows."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from undye.data.index import FolderStamp, Stamp
from undye.data.listing import Listing, is_hidden, is_image_name
from undye.data.name_list import NameList
from undye.data.report import show_path
from undye.errors import UserError

MAX_BYTES = 256 * 2**20
"""The most that one encoded image may take, packed or unpacked: a claim beyond is a bomb or damage."""


class Members(ABC):
    """Encoded images of one origin.

    Attributes:
        name: for messages.
        names: one per image; its first part may be its class.
        own_labels: the classes, from 0, that the origin itself brings; -1 where an image has none.
        own_class_names: what they are called.
        stamp: what must be as it was for what is known of them to hold; None: nothing is kept of them.
    """

    name: str
    names: Sequence[str]
    own_labels: Int64[np.ndarray, " n"] | None = None
    own_class_names: tuple[str, ...] | None = None
    stamp: Stamp | None = None

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Path | bytes:
        """Where an image is, or its bytes; from any thread.

        Raises:
            BadImageError: it cannot be had.
            OSError: the same.
        """

    def tensors(self) -> dict[str, np.ndarray]:
        """What making it again needs, beside the stamp."""
        return {}


class FolderMembers(Members):
    """The files of a folder."""

    def __init__(self, name: str, root: Path, names: NameList, stamp: Stamp | None) -> None:
        self.name, self.names, self.stamp = name, names, stamp
        self._root = root

    @classmethod
    def listed(cls, name: str, root: Path, listing: Listing, started: float) -> "FolderMembers":
        """From a walk through the folder that began at the time `started`."""
        return cls(name, root, NameList.of(listing.names), FolderStamp(root, listing.folders, listing.names, started))

    def read(self, index: int) -> Path:
        """Its path."""
        return self._root / self.names[index]

    def tensors(self) -> dict[str, np.ndarray]:
        """The names."""
        assert isinstance(self.names, NameList)
        return {"names": self.names.text, "name_ends": self.names.ends}


def image_members(names: Sequence[str], split: str) -> tuple[list[int], list[str]]:
    """Which of an archive's members are images to be used, and their names as if the archive were a folder.

    Hidden ones are passed over. Folders around everything are stripped; of `train` and `test` side by side, the split
    picks one. A member that is there twice counts with its last version. The result is sorted by name, as a folder is.
    """
    chosen: dict[tuple[str, ...], int] = {}
    for index, name in enumerate(names):
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if parts and is_image_name(parts[-1]) and not any(is_hidden(part) and part != ".." for part in parts):
            chosen[parts] = index
    folders = Counter(parts[0] for parts in chosen if len(parts) > 1)
    while len(folders) == 1 and folders.total() == len(chosen) and all(len(parts) > 2 for parts in chosen):
        chosen = {parts[1:]: index for parts, index in chosen.items()}
        folders = Counter(parts[0] for parts in chosen if len(parts) > 1)
    if folders["train"] and folders["test"]:
        chosen = {parts[1:]: index for parts, index in chosen.items() if parts[0] == split and len(parts) > 1}
    ordered = sorted(("/".join(parts), index) for parts, index in chosen.items())
    return [index for _, index in ordered], [name for name, _ in ordered]


def leads_out(name: str) -> bool:
    """Whether a name would lie outside the folder that an archive is unpacked into. Nothing here unpacks by name."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":"


def folder_classes(name: str, names: Sequence[str]) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """The class of each image: the first folder on its way, the names sorted.

    Raises:
        UserError: an image lies in none.
    """
    firsts: list[str] = []
    for path in names:
        first, slash, _ = path.partition("/")
        if not slash:
            raise UserError(
                f"{show_path(path)} lies in no class folder: with --labels folders every image belongs in a sub-folder "
                f"of {name} that names its class"
            )
        firsts.append(first)
    classes = sorted(set(firsts))
    number = {first: k for k, first in enumerate(classes)}
    labels = np.fromiter((number[first] for first in firsts), dtype=np.int64, count=len(firsts))
    return labels, tuple(map(show_path, classes))
