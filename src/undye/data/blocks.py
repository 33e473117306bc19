"""The blocks of a stream one after another, read in the background: while one is in use, the next one is read."""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice

import numpy as np

from undye.data.hub_stream import HubStream, Row, StreamError
from undye.data.stream_order import StreamOrder

LISTENS = 0.05
"""Seconds between two looks around while a block is waited for."""
PATIENCE = 5.0
"""Seconds that a row which is being read may take when nobody wants it any more."""


@dataclass(frozen=True)
class Block:
    """Rows that are shuffled together.

    Attributes:
        start: the place in the run of its first row.
        rows: in the stream's own order.
        order: (rows,) which of them comes first, second, ...
    """

    start: int
    rows: list[Row]
    order: np.ndarray

    @property
    def end(self) -> int:
        """The place after its last."""
        return self.start + len(self.rows)


class _Stopped(Exception):
    """Nobody wants to read on."""


def read_blocks(stream: HubStream, order: StreamOrder, place: int, stopped: threading.Event) -> Generator[Block]:
    """The blocks from the one with `place` on, without end.

    Args:
        stream: what is read.
        order: of the run; the shards' numbers of rows are filled in as they are found.
        place: of the run.
        stopped: when set, the reading ends at the next row, with an error.

    Raises:
        StreamError: the stream breaks off, has no rows, or other ones than before.
    """
    while True:
        epoch, offset = order.split(place)
        start, number = place - offset, offset // order.block
        rows = _epoch(stream, order, epoch, number * order.block, stopped)
        # if an end that was not known lies before the place, nothing comes of this epoch, and then the end is known
        while taken := list(islice(rows, order.block)):
            block = Block(start + number * order.block, taken, order.shuffled(epoch, number, len(taken)))
            place, number = block.end, number + 1
            yield block
        if order.total == 0:
            raise StreamError(f"{stream.name} has no rows")


def _epoch(stream: HubStream, order: StreamOrder, epoch: int, skip: int, stopped: threading.Event) -> Iterator[Row]:
    """The rows of an epoch after the first `skip`."""
    for shard in order.shards(epoch):
        known = order.counts[shard]
        if known is not None and known <= skip:
            skip -= known
            continue
        count = skip
        for row in stream.rows(shard, skip):
            if stopped.is_set():
                raise _Stopped
            yield row
            count += 1
        if known is None and count == skip > 0:
            count = sum(1 for _ in stream.rows(shard))  # it ended somewhere before
        if known is not None and known != count:
            raise StreamError(
                f"{stream.name} has changed: {count:,} rows in shard {shard}, not {known:,} as before; give the same "
                "data, or start a new run with --init"
            )
        order.counts[shard] = count
        skip -= min(skip, count)


class BlockReader:
    """Hands out rows by their place, for places that only grow; two blocks are held, and what the callers keep."""

    def __init__(
        self, stream: HubStream, order: StreamOrder, place: int, waiting: Callable[[], None] | None = None
    ) -> None:
        """Begins to read at the block with `place`; `waiting` is called now and then while a block is waited for."""
        self._waiting = waiting
        self._stopped = threading.Event()
        self._blocks = read_blocks(stream, order, place, self._stopped)
        self._begin_next()
        self._block: Block | None = None
        self.read = 0  # rows in the blocks that were begun

    def block(self, place: int) -> Block:
        """The block with a place; waits until it is read.

        Raises:
            StreamError: see `read_blocks`; and whatever `waiting` raises, which ends the wait.
        """
        while self._block is None or place >= self._block.end:
            self._block = None  # before the wait: no more than two are held
            while self._waiting is not None and not wait([self._next], LISTENS).done:
                self._waiting()
            self._block = self._next.result()
            self.read += len(self._block.rows)
            self._begin_next()
        return self._block

    def close(self) -> None:
        """Ends the reading; a row that hangs, on a network that does, is left to itself."""
        self._stopped.set()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._blocks.close()  # or the library's readers would be left open until the interpreter ends

    def _begin_next(self) -> None:
        self._next: Future[Block] = Future()
        # a daemon, and no pool: the end of the process would wait for the threads of one
        self._thread = threading.Thread(target=_read, args=(self._blocks, self._next), name="undye-stream", daemon=True)
        self._thread.start()


def _read(blocks: Iterator[Block], into: Future[Block]) -> None:
    try:
        into.set_result(next(blocks))
    except BaseException as error:
        into.set_exception(error)
