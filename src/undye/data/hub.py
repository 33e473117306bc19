"""Data sets of the Hugging Face library `datasets`: from the hub, or saved on the disk. An optional extra.

`hf:NAME[:SPLIT][?image=COLUMN&label=COLUMN&config=NAME]`; NAME is the hub's, or a folder. They are Arrow files mapped
from the disk, so any row can be read at any time, and an order can be gone on with from any place.

A stream (`hf-stream:`) has no such access, only shards that are read from their start on. It can be trained on in an
order made for that (`stream.py`, `stream_order.py`), or be packed (`undye data pack hf-stream:NAME ...`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from undye.data.colour import BadImageError
from undye.data.index import Stamp
from undye.data.members import MAX_BYTES, Members
from undye.data.name_list import NumberedNames
from undye.data.names import HUB, HUB_STREAM
from undye.data.report import show_path
from undye.errors import UserError

_OPTIONS = ("image", "label", "config")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "cls")
_SAVED = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class HubName:
    """What `hf:...` says. path: the hub's name, or a folder; prefix: `hf:` or `hf-stream:`."""

    path: str
    split: str | None = None
    image: str | None = None
    label: str | None = None
    config: str | None = None
    prefix: str = HUB


def parse_hub_name(text: str) -> HubName:
    """Reads `hf:NAME[:SPLIT][?KEY=VALUE&...]`, or the same after `hf-stream:`.

    Raises:
        UserError: for anything else.
    """
    place, _, query = text.removeprefix(HUB).removeprefix(HUB_STREAM).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    path, colon, split = place.rpartition(":")
    if not colon or "/" in split or "\\" in split:
        path, split = place, ""
    unknown = [key for key in options if key not in _OPTIONS]
    if not path or unknown or (query and not options):
        raise UserError(
            f"cannot read {show_path(text)}: write hf:NAME, hf:NAME:SPLIT or "
            f"hf:NAME:SPLIT?image=COLUMN&label=COLUMN&config=NAME"
        )
    prefix = HUB_STREAM if text.startswith(HUB_STREAM) else HUB
    return HubName(path, split or None, options.get("image"), options.get("label"), options.get("config"), prefix)


def with_absolute_folder(text: str) -> str:
    """The same name, whatever folder it is used from: a folder in it becomes an absolute path.

    Raises:
        UserError: see `parse_hub_name`.
    """
    path = parse_hub_name(text).path
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return text
    prefix, _, rest = text.partition(":")
    return f"{prefix}:{folder.absolute()}{rest.removeprefix(path)}"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved a data set here."""
    return any((folder / name).is_file() for name in _SAVED)


class HubMembers(Members):
    """The rows of a data set that is on the disk."""

    def __init__(self, name: HubName, split: str) -> None:
        """Finds the data set, which may be downloaded, and its columns.

        Raises:
            UserError: it cannot be had, or has no column of images, or several; named.
        """
        self._table = load_table(name, name.split or split, streaming=False)
        self.name = show_path(name.path)
        self._column, label = find_columns(name, self._table.features)
        self.names = NumberedNames(len(self._table))
        if label is not None:
            self.own_labels, self.own_class_names = _labels(self.name, self._table, label)
        self._rows = undecoded(self._table.select_columns([self._column]), self._column)
        fingerprint = getattr(self._table, "_fingerprint", None)
        self.stamp = None if fingerprint is None else _FingerprintStamp(f"{fingerprint} {self._column}")

    def read(self, index: int) -> Path | bytes:
        """The encoded bytes of one row, or the file that it points to.

        Raises:
            BadImageError: there is nothing there.
        """
        return encoded(self._rows[index][self._column])


def encoded(value: Any) -> Path | bytes:
    """What an undecoded image of `datasets` holds: bytes, or else a path.

    Raises:
        BadImageError: neither.
    """
    if isinstance(value, dict) and value.get("bytes"):
        if len(value["bytes"]) > MAX_BYTES:
            raise BadImageError(f"{len(value['bytes']):,} bytes, more than the limit of {MAX_BYTES:,}")
        return value["bytes"]
    if isinstance(value, dict) and value.get("path"):
        return Path(value["path"])
    raise BadImageError("no image in this row")


def find_columns(name: HubName, features: Any) -> tuple[str, str | None]:
    """The column of images, and that of the classes or None.

    Raises:
        UserError: not there, or several; the message lists the columns and how to choose one.
    """
    from datasets import ClassLabel, Image, Value

    shown = show_path(name.path)
    columns = ", ".join(map(show_path, features))
    for asked in (name.image, name.label):
        if asked is not None and asked not in features:
            raise UserError(f"{shown} has no column {show_path(asked)}: it has {columns}")
    images = [column for column, kind in features.items() if isinstance(kind, Image)]
    if name.image is not None:
        if name.image not in images:
            raise UserError(f"the column {show_path(name.image)} of {shown} holds {features[name.image]}, no images")
        images = [name.image]
    if len(images) != 1:
        what = "no column of images" if not images else f"{len(images)} columns of images"
        choose = f"; choose one: {name.prefix}{shown}?image={show_path(images[0])}" if images else ""
        raise UserError(f"{shown} has {what} (columns: {columns}){choose}")
    if name.label is not None:
        return images[0], name.label
    classes = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    if not classes:
        whole = [c for c, kind in features.items() if isinstance(kind, Value) and str(kind.dtype).startswith("int")]
        classes = [column for column in _LABEL_NAMES if column in whole]
    if len(classes) > 1:
        usual = [column for column in _LABEL_NAMES if column in classes]
        classes = usual[:1]
    return images[0], classes[0] if classes else None


def check_classes(shown: str, features: Any, column: str) -> None:
    """Make sure that a column holds classes.

    Raises:
        UserError: it holds something else than whole numbers.
    """
    kind = str(getattr(features[column], "dtype", features[column]))
    if not kind.startswith(("int", "uint")):
        raise UserError(f"the column {show_path(column)} of {shown} holds {kind}: classes are whole numbers")


class _FingerprintStamp(Stamp):
    """`datasets` gives every table a fingerprint of all that it was made from."""

    def __init__(self, fingerprint: str) -> None:
        self.key = f"hub {fingerprint}"

    def tensors(self) -> dict[str, np.ndarray]:
        return {}

    def holds(self, kept: Any) -> bool:
        return True


def load_table(name: HubName, split: str, streaming: bool) -> Any:
    """The library's object for one split.

    Raises:
        UserError: it cannot be had, has no such split, or no rows.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("hf: needs the package datasets: pip install 'undye[hub]'") from None
    folder = Path(name.path).expanduser()
    shown = show_path(name.path)
    try:
        if folder.is_dir() and is_saved_dataset(folder):
            found = datasets.load_from_disk(str(folder))
        else:
            path = str(folder) if folder.is_dir() else name.path
            found = datasets.load_dataset(path, name.config, streaming=streaming)
    # it lets out errors of the network, of Arrow and of its own, under many names
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot load {shown} with datasets: {what}") from error
    if isinstance(found, dict):
        if split not in found:
            have = ", ".join(show_path(str(key)) for key in found)
            raise UserError(f"{shown} has no split {show_path(split)}: it has {have}; write {name.prefix}{shown}:SPLIT")
        found = found[split]
    elif name.split is not None:
        raise UserError(f"{shown} has no splits: leave :{show_path(name.split)} out")
    if isinstance(found, datasets.Dataset) and len(found) == 0:
        raise UserError(f"{shown} has no rows")
    return found


def undecoded(table: Any, column: str) -> Any:
    """The same table, its images left as they are stored."""
    from datasets import Image

    return table.cast_column(column, Image(decode=False))


def _labels(name: str, table: Any, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    from undye.data.arrays import MAX_CLASSES

    check_classes(name, table.features, column)
    labels = table.with_format("arrow")[column][:].fill_null(-1).to_numpy()
    if labels.min() < -1 or labels.max() >= MAX_CLASSES:
        raise UserError(f"the column {show_path(column)} of {name} goes from {labels.min()} to {labels.max()}")
    names = getattr(table.features[column], "names", None) or [str(k) for k in range(labels.max() + 1)]
    labels = np.where(labels < len(names), labels, -1)  # the library does not look: what is none of the classes is none
    return labels.astype(np.int64), tuple(map(show_path, names))
