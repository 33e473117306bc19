"""Archives and shards of images, as sources."""

import json
from collections.abc import Sequence
from pathlib import Path

from undye.data.encoded import Wanted, load_encoded
from undye.data.index import FilesStamp, find_index
from undye.data.report import show_path
from undye.data.source import ImageSource
from undye.data.tars import TAR_SUFFIXES, TarMembers
from undye.data.zips import ZipMembers

ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)


def is_archive(path: Path) -> bool:
    """Whether a file's name ends like an archive's."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def load_archive(path: Path, wanted: Wanted) -> ImageSource:
    """The images in a ZIP or TAR archive.

    Raises:
        UserError: it cannot be read, or those of `load_encoded`.
        TooManyBadImages: see there.
    """
    if path.suffix.lower() != ".zip":
        return load_shards(show_path(path), [path], wanted)
    stamp = FilesStamp([path], wanted.split)
    kept = find_index(stamp)
    members = ZipMembers.scan(path, wanted.split, stamp) if kept is None else ZipMembers.kept(path, kept, stamp)
    return load_encoded(members, wanted, None if kept is None else kept.headers, {})


def load_shards(name: str, paths: Sequence[Path], wanted: Wanted) -> ImageSource:
    """The images in TAR archives, one after another.

    Raises:
        UserError: one cannot be read, or those of `load_encoded`.
        TooManyBadImages: see there.
    """
    stamp = FilesStamp(paths, wanted.split)
    kept = find_index(stamp)
    if kept is None:
        members = TarMembers.scan(name, paths, wanted.split, stamp)
    else:
        members = TarMembers.kept(name, paths, kept, stamp)
    return load_encoded(
        members, wanted, None if kept is None else kept.headers, {"classes": json.dumps(members.own_class_names)}
    )
