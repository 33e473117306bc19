"""TAR archives of images, read in place: one archive, or shards as webdataset writes them.

The archives are walked once, from header to header, and each image is then read alone, from any thread; nothing is
unpacked to the disk. Members with the same name up to the first dot belong together: an image, and a `.cls` (a number,
or a class's name) or `.json` (with `label`, `cls`, `class` or `class_id`) that holds its label.
An archive that is compressed as a whole has no image without all before it: `undye data pack` reads it once.
"""

import itertools
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from undye.data.arrays import MAX_CLASSES
from undye.data.colour import BadImageError
from undye.data.index import FilesStamp, Kept
from undye.data.listing import is_image_name
from undye.data.members import MAX_BYTES, Members, image_members, leads_out
from undye.data.name_list import NameList
from undye.data.report import show_path
from undye.errors import UserError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LABEL_KEYS = ("label", "cls", "class", "class_id")
_MAX_LABEL_BYTES = 2**20
_MAX_SHARDS = 1_000_000
_OUTSIDE = -1  # in place of the size

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def expand_shards(pattern: str) -> list[Path]:
    """`a-{00..12}.tar` as thirteen paths.

    Raises:
        UserError: a range that is none, too many files, or one that is not there.
    """
    pieces = re.split(r"\{([0-9]+)\.\.([0-9]+)\}", pattern)
    fixed, ranges = pieces[0::3], []
    count = 1
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        if int(first) > int(last):
            raise UserError(f"{show_path(pattern)}: the range {{{first}..{last}}} runs backwards")
        count *= int(last) - int(first) + 1
        if count > _MAX_SHARDS:
            raise UserError(f"{show_path(pattern)} means more than {_MAX_SHARDS:,} files")
        ranges.append([f"{k:0{len(first)}}" for k in range(int(first), int(last) + 1)])
    paths = [
        Path("".join(itertools.chain.from_iterable(zip(fixed, (*choice, ""), strict=True)))).expanduser()
        for choice in itertools.product(*ranges)
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} shards are not there: {show_path(missing[0])} is the first"
        )
    return paths


def compression(path: Path) -> str | None:
    """How a file is compressed as a whole, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)


class TarMembers(Members):
    """The images in one or more TAR archives.

    `where` is one row per image: number of the archive, offset of its bytes, their number.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        names: NameList,
        where: Int64[np.ndarray, "n 3"],
        labels: Int64[np.ndarray, " n"] | None,
        class_names: tuple[str, ...] | None,
        stamp: FilesStamp,
    ) -> None:
        self.name, self.names, self.stamp = name, names, stamp
        self.own_labels, self.own_class_names = labels, class_names
        self._paths, self._where = paths, where

    @classmethod
    def scan(cls, name: str, paths: Sequence[Path], split: str, stamp: FilesStamp) -> "TarMembers":
        """Walks through the archives.

        Raises:
            UserError: one is compressed, cannot be read or is cut short, or there is no image in them.
        """
        names: list[str] = []
        where: list[tuple[int, int, int]] = []
        labels: list[int | str | None] = []
        for number, path in enumerate(paths):
            found, beside = _walk(path)
            chosen, shown = image_members([member[0] for member in found], split)
            names += shown
            where += [(number, *found[k][1:]) for k in chosen]
            labels += [beside.get(_stem(found[k][0])) for k in chosen]
        if not names:
            raise UserError(f"no images in {name}")
        numbers, class_names = _classes(name, labels)
        return cls(name, paths, NameList.of(names), np.array(where, dtype=np.int64), numbers, class_names, stamp)

    @classmethod
    def kept(cls, name: str, paths: Sequence[Path], kept: Kept, stamp: FilesStamp) -> "TarMembers":
        """From an index."""
        tensors, classes = kept.tensors, json.loads(kept.about["classes"])
        names = NameList(tensors["names"], tensors["name_ends"])
        class_names = None if classes is None else tuple(classes)
        return cls(name, paths, names, tensors["where"], tensors.get("labels"), class_names, stamp)

    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            BadImageError: it is too large, or not there.
        """
        archive, offset, size = self._where[index].tolist()
        if size == _OUTSIDE:
            raise BadImageError("its name leads out of the archive")
        if not 0 < size <= MAX_BYTES:
            raise BadImageError("empty" if size == 0 else f"{size:,} bytes, more than the limit of {MAX_BYTES:,}")
        with self._paths[archive].open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise BadImageError("the archive is cut short")
        return data

    def tensors(self) -> dict[str, np.ndarray]:
        """Names, places and labels."""
        assert isinstance(self.names, NameList)
        labels = {} if self.own_labels is None else {"labels": self.own_labels}
        return {"names": self.names.text, "name_ends": self.names.ends, "where": self._where, **labels}


def _walk(path: Path) -> tuple[list[tuple[str, int, int]], dict[str, int | str]]:
    """The files of an archive as (name, offset, size), and the labels beside them by stem."""
    if (kind := compression(path)) is not None:
        raise UserError(
            f"{show_path(path)} is compressed as a whole ({kind}), so that no image can be read without all before it: "
            f"pack it once (undye data pack {show_path(path)} --out FILE.pack), or decompress it"
        )
    found: list[tuple[str, int, int]] = []
    labels: dict[str, int | str] = {}
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            while (member := archive.next()) is not None:
                archive.members = []  # pyrefly: ignore  # tarfile would keep them all
                if not member.isreg() or member.issparse():
                    continue
                name, size = member.name, member.size
                if is_image_name(name):
                    found.append((name, member.offset_data, _OUTSIDE if leads_out(name) else size))
                elif name.endswith((".cls", ".json")) and size <= _MAX_LABEL_BYTES:
                    file.seek(member.offset_data)
                    label = _label(name, file.read(size))
                    if label is not None:
                        labels[_stem(name)] = label
    # tarfile lets out all kinds of errors on a damaged header
    except (tarfile.TarError, ValueError, OverflowError, EOFError, IndexError, RecursionError) as error:
        raise UserError(
            f"cannot read {show_path(path)} as a TAR archive (after {len(found):,} images): "
            f"{' '.join(str(error).split()) or type(error).__name__}: is it cut short?"
        ) from None
    return found, labels


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(name: str, content: bytes) -> int | str | None:
    try:
        text = content.decode().strip()
        if name.endswith(".json"):
            fields = json.loads(text)
            value = next((fields[key] for key in _LABEL_KEYS if key in fields), None) if type(fields) is dict else None
            return value if type(value) in (int, str) else None
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) else text or None
    except (ValueError, RecursionError):
        return None


def _classes(
    name: str, labels: list[int | str | None]
) -> tuple[Int64[np.ndarray, " n"] | None, tuple[str, ...] | None]:
    """Numbers as they are, names sorted; None if nothing has a label, -1 for an image without one among others with."""
    known = {label for label in labels if label is not None}
    if not known:
        return None, None
    whole = [label for label in known if isinstance(label, int)]
    if len(whole) == len(known):
        low, high = min(whole), max(whole)
        if not 0 <= low <= high < MAX_CLASSES:
            raise UserError(f"the labels in {name} go from {low} to {high}: number the classes from 0 without gaps")
        numbers = [-1 if label is None else label for label in labels]
        return np.array(numbers, dtype=np.int64), tuple(str(k) for k in range(high + 1))
    order = {label: k for k, label in enumerate(sorted(map(str, known)))}
    numbers = [-1 if label is None else order[str(label)] for label in labels]
    return np.array(numbers, dtype=np.int64), tuple(map(show_path, order))
