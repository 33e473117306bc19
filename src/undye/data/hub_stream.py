"""A stream of the library `datasets` as shards, each of which can be read from any row on.

A row's bytes are read here, so that an error of the network is one of the stream, which ends the run, and never a bad
image, which would be replaced: the batches would not be the same the next time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undye.data.arrays import MAX_CLASSES
from undye.data.colour import BadImageError
from undye.data.hub import check_classes, encoded, find_columns, load_table, parse_hub_name, undecoded
from undye.data.report import show_path
from undye.errors import UserError


class StreamError(UserError):
    """A stream that broke off, or that is not what it was."""


@dataclass(frozen=True)
class Row:
    """One row. image: encoded, or why it is of no use; label: its class, or None; shard, number: where it stands."""

    image: Path | bytes | BadImageError
    label: int | None
    shard: int
    number: int


class HubStream:
    """A stream.

    Attributes:
        name: for messages.
        shards: how many there are.
        labels: whether the rows have classes, and these are asked for.
        class_names: None without classes, or where they have no names.
    """

    def __init__(self, text: str, split: str, labels: bool) -> None:
        """Opens `hf-stream:...`; its first bytes are read only when rows are.

        Raises:
            UserError: it cannot be had, its columns are not known or not found, or its classes are no whole numbers.
        """
        name = parse_hub_name(text)
        self.name = show_path(text)
        table = load_table(name, name.split or split, streaming=True)
        if hasattr(table, "to_iterable_dataset"):  # one that was saved on the disk
            table = table.to_iterable_dataset()
        if table.features is None:
            raise UserError(f"{show_path(name.path)} does not say what its columns are: load it whole, with hf:")
        self._column, label = find_columns(name, table.features)
        self._label = label if labels else None
        self.class_names: tuple[str, ...] | None = None
        if self._label is not None:
            check_classes(self.name, table.features, self._label)
            if names := getattr(table.features[self._label], "names", None):
                self.class_names = tuple(map(show_path, names))
        self.labels = self._label is not None
        columns = [self._column] if self._label is None else [self._column, self._label]
        self._table = undecoded(table.select_columns(columns), self._column)
        self.shards = int(getattr(self._table, "num_shards", None) or self._table.n_shards)

    def rows(self, shard: int, start: int = 0) -> Iterator[Row]:
        """The rows of a shard, from number `start` on, in their order.

        Raises:
            StreamError: it breaks off.
        """
        number = start
        try:
            table = self._table.shard(num_shards=self.shards, index=shard)
            for row in table.skip(start) if start else table:
                yield self._row(row, shard, number)
                number += 1
        # the network's errors, Arrow's and its own, under many names; not what is thrown in to close a generator
        except Exception as error:
            what = " ".join(str(error).split())[:200] or type(error).__name__
            raise StreamError(f"the stream {self.name} broke off at {self.row_name(shard, number)}: {what}") from error

    def row_name(self, shard: int, number: int) -> str:
        """What a person would call a row."""
        return f"row {number}" if self.shards == 1 else f"shard {shard} row {number}"

    def _row(self, row: dict[str, Any], shard: int, number: int) -> Row:
        image = _image(row[self._column])
        if self._label is None:
            return Row(image, None, shard, number)
        label = row[self._label]
        if label is None or label < 0:
            return Row(BadImageError("no label in this row"), None, shard, number)
        classes = MAX_CLASSES if self.class_names is None else len(self.class_names)
        if label >= classes:
            return Row(BadImageError(f"the label {label} is none of the {classes} classes"), None, shard, number)
        return Row(image, int(label), shard, number)


def _image(value: Any) -> Path | bytes | BadImageError:
    path = value.get("path") if isinstance(value, dict) else None
    if path and not value.get("bytes") and "://" in path:  # in an archive, or elsewhere
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            value = {"bytes": file.read()}
    try:
        return encoded(value)
    except BadImageError as error:
        return error
