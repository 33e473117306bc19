"""The batches of a stream: as exact as any others, a function of (seed, step), but read one after another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from undye.data.blocks import Block, BlockReader
from undye.data.resize import CENTRE
from undye.data.stream import StreamSource
from undye.data.stream_order import StreamOrder
from undye.errors import UserError
from undye.keyed import Stream
from undye.training.batches import Batch, BatchStream, Part


@dataclass(frozen=True, kw_only=True)
class StreamBatches(BatchStream):
    """As `BatchStream`; every process reads the same blocks, and decodes what its share of a batch needs.

    Attributes:
        source: a `StreamSource`.
        block: rows that are shuffled together.
        waiting: called now and then while rows are waited for; what it raises ends the batches.
    """

    source: StreamSource  # pyrefly: ignore
    block: int
    waiting: Callable[[], None] | None = None
    _order: StreamOrder = field(init=False)

    def __post_init__(self) -> None:
        """Catch what a stream cannot do.

        Raises:
            UserError: balanced classes.
        """
        if self.balance == "classes":
            raise UserError(
                f"--training.balance classes needs to know all labels beforehand, and {self.source.name} is a stream: "
                "leave it out, or pack the stream (undye data pack)"
            )
        object.__setattr__(self, "_order", self.source.order(self.seed, self.block))

    def names(self, step: int) -> list[str]:
        """What a person would call the images of a whole batch, one that was read already."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [self.source.row_name(*self._order.row_at(place)) for place in places]

    @contextmanager
    def _parts(self, step: int) -> Iterator[Part]:
        reader = self.source.reader(self._order, step * self.batch_size, self.waiting)
        try:
            yield partial(self._part, reader)
        finally:
            reader.close()

    def _part(self, reader: BlockReader, step: int, examples: np.ndarray) -> Callable[[], Batch]:
        # the rows are held from here on, so that the reader can go on to the next block
        places = (step * self.batch_size + examples).tolist()
        taken = [(reader.block(place), place) for place in places]
        self.source.saw(reader.read)
        return partial(self._taken, step, examples, taken)

    def _taken(self, step: int, examples: np.ndarray, taken: list[tuple[Block, int]]) -> Batch:
        at = [CENTRE] * len(taken)
        if self.crop == "random":
            at = [(down, across) for down, across in self._uniform(Stream.TRAIN_CROP, step, examples, 2).tolist()]
        found = [self.source.decode(block, place, where) for (block, place), where in zip(taken, at, strict=True)]
        images = np.stack([image for image, _ in found])
        label = np.array([label for _, label in found], dtype=np.int64) if self.labels else None
        return self._batch(step, examples, images, label)
