"""The order in which a run sees the rows of a stream, which can only be read from its shards' beginnings on.

In each epoch the shards come in an order of their own; the rows, in that order, are cut into blocks of the same number
of rows (the last one may have fewer), and each block is shuffled in itself. Both are functions of (seed, epoch), so a
place of the run is always the same row. What a stream does not say beforehand is how many rows its shards have. That is
found out once, and kept with the run: with it the shard and row of any place are known without reading those before.
"""

from dataclasses import dataclass, field

import numpy as np

from undye import keyed
from undye.keyed import Stream


@dataclass
class StreamOrder:
    """The order of one run.

    Attributes:
        seed: of the run.
        block: rows that are shuffled together.
        counts: the number of rows of each shard; None where it is not known yet. It is filled in by who reads them.
    """

    seed: int
    block: int
    counts: list[int | None] = field(default_factory=list)

    @property
    def total(self) -> int | None:
        """The number of rows of an epoch, once it is known."""
        known = [count for count in self.counts if count is not None]
        return sum(known) if len(known) == len(self.counts) else None

    def split(self, place: int) -> tuple[int, int]:
        """The epoch of a place, and its number therein; while the first epoch's end is not known, all lies in it."""
        total = self.total
        return (0, place) if total is None else divmod(place, total)

    def shards(self, epoch: int) -> list[int]:
        """The shards in the order of an epoch."""
        return keyed.permutation(len(self.counts), self.seed, Stream.TRAIN_ORDER, epoch).tolist()

    def shuffled(self, epoch: int, number: int, size: int) -> np.ndarray:
        """The order of a block's rows: (size,) int64."""
        return keyed.permutation(size, self.seed, Stream.TRAIN_BLOCKS, epoch, number)

    def row_at(self, place: int) -> tuple[int, int]:
        """The shard and row at a place that was read already."""
        epoch, offset = self.split(place)
        number, within = divmod(offset, self.block)
        left = self.block if self.total is None else min(self.block, self.total - number * self.block)
        row = number * self.block + int(self.shuffled(epoch, number, left)[within])
        for shard in self.shards(epoch):
            count = self.counts[shard]
            if count is None or row < count:  # the first one whose end was not reached yet is the one being read
                return shard, row
            row -= count
        raise ValueError(f"place {place} lies beyond the stream")
