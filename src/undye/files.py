"""Writing so that a file or folder is either whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `target`, moved onto it when the block ends well and removed when it does not.

    The block may make a file, or a folder where `target` does not exist yet. The name contains `.tmp`. `durable` waits
    until the disk holds it: for what must survive a power cut.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp{os.getpid()}"
    remove(temporary)
    try:
        yield temporary
        if durable:
            sync_all(temporary)
        os.replace(temporary, target)
        if durable:
            sync(target.parent)
    except BaseException:
        remove(temporary)
        raise


def write_text(target: Path, text: str, durable: bool = False) -> None:
    """Write a whole text file, atomically; `durable` as in `atomic_path`."""
    with atomic_path(target, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there; a folder is never seen half removed."""
    if path.is_dir() and not path.is_symlink():
        if ".tmp" not in path.name:
            # a process that is killed meanwhile leaves a temporary, which `remove_temporaries` knows
            doomed = path.with_name(f".{path.name}.tmp{os.getpid()}")
            remove(doomed)
            path = path.rename(doomed)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what interrupted writes left in a folder."""
    for path in folder.glob(".*.tmp*"):
        remove(path)


def sync_all(path: Path) -> None:
    """Have the disk hold a file, or a folder with everything in it."""
    if path.is_dir():
        for child in path.iterdir():
            sync_all(child)
    sync(path)


def sync(path: Path) -> None:
    """Have the disk hold one file, or one folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # some file systems do not sync folders; the rename is still atomic
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
