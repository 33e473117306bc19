"""Images of a stream, decoded as they come; see `stream_order.py` for their order.

One that turns out to be bad is named, and the next good one of its block, in the stream's own order, takes its place
and brings its own class along: the same one in every run.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from undye.data.blocks import Block, BlockReader
from undye.data.colour import BadImageError, TooSmallError, has_colour, to_channels
from undye.data.decode import read_header, read_pixels, reason
from undye.data.encoded_source import Place
from undye.data.hub_stream import HubStream, Row
from undye.data.names import show_size
from undye.data.report import MAX_BAD_FRACTION, BadFile, LoadReport
from undye.data.resize import CENTRE, check_large_enough
from undye.data.source import ImageSource, Indices
from undye.data.stream_order import StreamOrder
from undye.data.workers import quiet_pillow
from undye.errors import UserError

LOOKED_AT = 64
"""Rows that are read at first: they say the size and the channels, where these are not asked for."""
JUDGED = 1000
"""Of fewer rows than this (if there are as many) the bad ones are not too many."""


class StreamSource(ImageSource):
    """A stream. What asks for images by their number, or for how many there are, is an error: see `reader`.

    Attributes:
        counts: the number of rows of each shard, None where it is not known yet; filled in as they are read.
    """

    can_crop = True

    def __init__(
        self,
        stream: HubStream,
        image_size: tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        upscale: bool = False,
        max_bad_fraction: float = MAX_BAD_FRACTION,
    ) -> None:
        """Reads the first rows.

        Args:
            stream: the rows.
            image_size: (height, width); None: that of the first image.
            channels: None: 3 if one of the first `LOOKED_AT` images has colour, else 1.
            upscale: enlarge images that are smaller.
            max_bad_fraction: of the images read so far.

        Raises:
            UserError: it has no rows, none of the first holds an image, or its classes have no names.
            StreamError: it breaks off.
        """
        if stream.labels and stream.class_names is None:
            raise UserError(
                f"the labels of {stream.name} do not say which classes there are, and those of a stream have to: leave "
                "--labels out, or load it whole, with hf:"
            )
        self.name, self.class_names = stream.name, stream.class_names
        self._stream, self._upscale, self._max_bad_fraction = stream, upscale, max_bad_fraction
        self.counts: list[int | None] = [None] * stream.shards
        self._bad: dict[tuple[int, int], BadFile] = {}
        self._lock = threading.Lock()
        self._read = 0
        first = list(islice(chain.from_iterable(map(stream.rows, range(stream.shards))), LOOKED_AT))
        if not first:
            raise UserError(f"{self.name} has no rows")
        self._digest = _digest(stream, first)
        self.image_size, self.channels = _shape(self.name, first, image_size, channels)

    @property
    def report(self) -> LoadReport:
        """What was skipped, of the images read so far by this process."""
        with self._lock:
            return LoadReport(self._seen, tuple(self._bad[key] for key in sorted(self._bad)))

    @property
    def _seen(self) -> int:
        return self._read if self.total is None else min(self._read, self.total)

    def describe(self) -> str:
        """One line, like `hf-stream:a/b: a stream of images 28x28x1 in 4 shards, 10 classes`."""
        shards = f"{self._stream.shards:,} shard{'s' if self._stream.shards > 1 else ''}"
        classes = f", {self.num_classes} classes" if self.class_names is not None else ""
        return f"{self.name}: a stream of images {show_size(self.image_size)}x{self.channels} in {shards}{classes}"

    def fingerprint(self) -> str:
        """A hash of the shards' number, the classes and the first rows."""
        return self._digest

    @property
    def total(self) -> int | None:
        """The number of rows, once it is known."""
        return StreamOrder(0, 1, self.counts).total

    def learn(self, counts: Sequence[int | None]) -> None:
        """Take over the shards' numbers of rows, from an earlier process of the same run."""
        self.counts[:] = counts

    def order(self, seed: int, block: int) -> StreamOrder:
        """The order of a run."""
        return StreamOrder(seed, block, self.counts)

    def reader(self, order: StreamOrder, place: int, waiting: Callable[[], None] | None = None) -> BlockReader:
        """Reads from a place of the run on; see `BlockReader`."""
        return BlockReader(self._stream, order, place, waiting)

    def saw(self, rows: int) -> None:
        """Note that this process has read so many rows in all: what the number of bad ones is measured by.

        Raises:
            TooManyBadImages: now that there are fewer rows than there might have been.
        """
        if rows != self._read:
            self._read = rows
            self._check()

    def row_name(self, shard: int, number: int) -> str:
        """What a person would call a row."""
        return self._stream.row_name(shard, number)

    def decode(self, block: Block, place: int, at: Place = CENTRE) -> tuple[UInt8[np.ndarray, "h w c"], int | None]:
        """The image at a place of a block, and its class; from any thread.

        Raises:
            TooManyBadImages: the bad ones found so far are more than the stated fraction.
            UserError: the block has no good one.
        """
        index = int(block.order[place - block.start])
        for row in (block.rows[i] for i in chain(range(index, len(block.rows)), range(index))):
            if (row.shard, row.number) in self._bad:
                continue
            try:
                return self._pixels(row, at), row.label
            except (BadImageError, OSError) as error:
                name = Path(self.row_name(row.shard, row.number))
                self._add(row, BadFile(name, reason(error), isinstance(error, TooSmallError)))
        self.report.check(self._max_bad_fraction)
        raise UserError(f"{self.name}: none of {len(block.rows):,} rows in succession holds an image that can be read")

    def _pixels(self, row: Row, at: Place) -> UInt8[np.ndarray, "h w c"]:
        if isinstance(row.image, BadImageError):
            raise row.image
        if not self._upscale:
            check_large_enough(read_header(row.image).size, self.image_size, upscale=False)
        return to_channels(read_pixels(row.image, self.image_size, at), self.channels)

    def _add(self, row: Row, bad: BadFile) -> None:
        with self._lock:
            if (row.shard, row.number) in self._bad:
                return
            self._bad[row.shard, row.number] = bad
        self.on_bad(bad)
        self._check()

    def _check(self) -> None:
        # a few bad ones among the first rows, or the first after a run was resumed, say nothing of the rest
        judged = max(self._seen, JUDGED if self.total is None else min(JUDGED, self.total))
        if len(self._bad) > self._max_bad_fraction * judged:
            self.report.check(self._max_bad_fraction)

    def __len__(self) -> int:
        raise self._refusal()

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """Never.

        Raises:
            UserError: always.
        """
        raise self._refusal()

    def crops(self, indices: Indices, at: Float64[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n h w c"]:
        """Never; `decode` crops.

        Raises:
            UserError: always.
        """
        raise self._refusal()

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """Never.

        Raises:
            UserError: always.
        """
        raise self._refusal()

    def _refusal(self) -> UserError:
        return UserError(f"{self.name} is a stream: its images cannot be counted or asked for by number; pack it")


@quiet_pillow()
def _shape(
    name: str, rows: list[Row], size: tuple[int, int] | None, channels: Literal[1, 3] | None
) -> tuple[tuple[int, int], int]:
    coloured, why = None, ""
    for row in rows:
        try:
            if isinstance(row.image, BadImageError):
                raise row.image
            size = size or read_header(row.image).size
            coloured = has_colour(read_pixels(row.image, size))
        except (BadImageError, OSError) as error:
            why = why or reason(error)
        if coloured or (coloured is not None and channels is not None):
            break
    if size is None or coloured is None:
        raise UserError(f"{name}: none of its first {len(rows)} rows holds an image that can be read ({why})")
    return size, channels or (3 if coloured else 1)


def _digest(stream: HubStream, rows: list[Row]) -> str:
    digest = hashlib.sha256(f"{stream.shards} {stream.class_names}".encode())
    for row in rows:
        image = row.image if isinstance(row.image, bytes) else b""  # a path may have been moved
        digest.update(f" {row.label} {len(image)} ".encode() + image)
    return digest.hexdigest()
