"""The image files below a folder, in an order that is the same on every machine."""

import os
from pathlib import Path

from undye.data.decode import SUFFIXES
from undye.data.report import show_path
from undye.errors import UserError


def list_images(root: Path) -> list[Path]:
    """Paths relative to `root`, sorted as POSIX text: any depth, known suffixes in any case.

    Hidden files and folders (`.git`, macOS's `._x`) and `__MACOSX` are passed over. Links to folders are followed, but
    every real folder is visited once, under its own name if it has one below `root`: a loop of links ends.

    Raises:
        UserError: no such folder, a folder that may not be read, or no image in it.
    """
    if not root.exists():
        raise UserError(f"no such folder: {show_path(root)}")
    if not root.is_dir():
        raise UserError(f"not a folder: {show_path(root)}")
    found: list[Path] = []
    linked: list[Path] = []
    visited: set[tuple[int, int]] = set()
    _walk(root, found, linked, visited)
    while linked:
        # Links found in this round wait for the next, so that the order of the file system plays no part.
        for link in sorted(linked[: (count := len(linked))]):
            _walk(link, found, linked, visited)
        del linked[:count]
    if not found:
        raise UserError(f"no images in {show_path(root)} (files that end in {' '.join(SUFFIXES)})")
    return sorted((path.relative_to(root) for path in found), key=lambda path: path.as_posix())


def _walk(folder: Path, found: list[Path], linked: list[Path], visited: set[tuple[int, int]]) -> None:
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"cannot read the folder {show_path(here)}: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            path = here / entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_symlink() and path.is_dir():
                linked.append(path)
            # A link to nothing is named as a bad file later; a pipe or a device is not opened, which could block.
            elif path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists()):
                found.append(path)
