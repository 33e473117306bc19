"""The image files below a folder, in an order that is the same on every machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from undye.data.decode import SUFFIXES
from undye.data.report import show_path
from undye.errors import UserError


@dataclass(frozen=True)
class Listing:
    """What a walk through a folder found.

    Attributes:
        names: of the images, relative, with slashes, sorted as text.
        folders: every folder that was read, relative, with its (time of change in ns, inode) just before.
    """

    names: list[str]
    folders: Mapping[str, tuple[int, int]]


def list_images(root: Path) -> list[str]:
    """The names of `list_folder`."""
    return list_folder(root).names


def list_folder(root: Path) -> Listing:
    """The images below `root`: any depth, known suffixes in any case.

    Hidden files and folders (`.git`, macOS's `._x`) and `__MACOSX` are passed over. Links to folders are followed, but
    every real folder is visited once, under its own name if it has one below `root`: a loop of links ends.

    Raises:
        UserError: no such folder, a folder that may not be read, or no image in it.
    """
    if not root.exists():
        raise UserError(f"no such folder: {show_path(root)}")
    if not root.is_dir():
        raise UserError(f"not a folder: {show_path(root)}")
    walk = _Walk(str(root))
    walk.through("")
    while walk.linked:
        # Links found in this round wait for the next, so that the order of the file system plays no part.
        links, walk.linked = sorted(walk.linked), []
        for link in links:
            walk.through(link)
    if not walk.found:
        raise UserError(f"no images in {show_path(root)} (files that end in {' '.join(SUFFIXES)})")
    return Listing(sorted(walk.found), walk.folders)


def has_images(root: Path) -> bool:
    """Whether any image lies directly in a folder, or in one of its sub-folders."""
    try:
        inside = [root, *(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))]
        return any(is_image_name(name) and not is_hidden(name) for folder in inside for name in os.listdir(folder))
    except OSError:
        return True  # the listing will say what is wrong


def is_hidden(name: str) -> bool:
    """Whether one part of a path is to be passed over."""
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


class _Walk:
    """Strings and directory entries, no Path objects: of a million files it is they that would take the time."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.found: list[str] = []
        self.linked: list[str] = []
        self.folders: dict[str, tuple[int, int]] = {}
        self._visited: set[tuple[int, int]] = set()

    def through(self, folder: str) -> None:
        pending = [folder]
        while pending:
            name = pending.pop()
            here = os.path.join(self.root, name) if name else self.root
            prefix = f"{name}/" if name else ""
            try:
                status = os.stat(here)
                if (status.st_dev, status.st_ino) in self._visited:
                    continue
                self._visited.add((status.st_dev, status.st_ino))
                self.folders[name] = (status.st_mtime_ns, status.st_ino)
                with os.scandir(here) as entries:
                    for entry in entries:
                        if not is_hidden(entry.name):
                            self._take(entry, prefix + entry.name, pending)
            except OSError as error:
                raise UserError(f"cannot read the folder {show_path(here)}: {error.strerror}") from error

    def _take(self, entry: os.DirEntry[str], name: str, pending: list[str]) -> None:
        if entry.is_symlink():
            if os.path.isdir(entry.path):
                self.linked.append(name)
            # A link to nothing is named as a bad file later; a pipe or a device is not opened, which could block.
            elif is_image_name(name) and (os.path.isfile(entry.path) or not os.path.exists(entry.path)):
                self.found.append(name)
        elif entry.is_dir():
            pending.append(name)
        elif is_image_name(name) and entry.is_file():
            self.found.append(name)
