"""The batches of a run: a function of (seed, step) alone, so that a run can go on from any step."""

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from undye import keyed
from undye.data.order import BalancedOrder, shuffled_epochs
from undye.data.pixels import to_signed
from undye.data.report import BadFile
from undye.data.source import ImageSource
from undye.errors import UserError
from undye.keyed import Stream


@dataclass(frozen=True)
class Batch:
    """x_0: (B, C, H, W) in [-1, 1]; label: (B,) int64 or None; examples: their numbers in the global batch."""

    x_0: Tensor
    label: Tensor | None
    examples: np.ndarray


Part = Callable[[int, np.ndarray], Callable[[], Batch]]
"""Of a step and some of its examples, what makes them: asked for in the reader's thread, called in a worker's."""


@dataclass(frozen=True)
class BatchStream:
    """Endless shuffled batches: every image once per epoch, batches running on across the end of an epoch.

    Attributes:
        source: the images.
        batch_size: images per step.
        seed: names the order, the flips and the crops.
        flip: mirror half of the images.
        labels: hand out class labels.
        ahead: batches that the workers prepare in the background.
        share: the part of each batch that this process is to have; None: all of it.
        crop: "random": another part of an image each time.
        balance: "classes": every class equally often, see `BalancedOrder`.
        workers: threads; 0: each batch is prepared when it is asked for. No number depends on it, nor on `ahead`.
        pin: put the batches where a GPU can fetch them quickly.
        tell: called in the reader's thread with a line for each image that turns out to be bad; None: a warning is
            logged at once.
    """

    source: ImageSource
    batch_size: int
    seed: int
    flip: bool = False
    labels: bool = False
    ahead: int = 1
    share: range | None = None
    crop: str = "center"
    balance: str = "none"
    workers: int = 0
    pin: bool = False
    tell: Callable[[str], None] | None = None
    _balanced: BalancedOrder | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Catch what the images cannot be asked for.

        Raises:
            UserError: crops of images that are cut out already, or classes of images without.
        """
        if self.crop == "random" and not self.source.can_crop:
            self.source.crops(np.arange(0), np.zeros((0, 2)))  # says why
        if self.balance == "classes":
            labels = self.source.labels(np.arange(len(self.source)))
            if labels is None:
                raise UserError(
                    f"--training.balance classes needs labels, and {self.source.name} is used without: choose --labels "
                    "folders, or auto for data that bring their own"
                )
            object.__setattr__(self, "_balanced", BalancedOrder(labels, self.seed))

    def indices(self, step: int, examples: np.ndarray) -> np.ndarray:
        """Which images the examples of a batch are."""
        places = step * self.batch_size + examples
        if self._balanced is not None:
            return self._balanced.at(places)
        return shuffled_epochs(places, len(self.source), self.seed)

    def at(self, step: int) -> Batch:
        """The batch of step number `step` (the first is 0), or this process's share of it."""
        with self._parts(step) as part:
            return self._finished([part(step, self._examples())()])

    def since(self, step: int) -> Generator[Batch]:
        """The batches of step `step`, `step + 1`, ..., without end.

        Raises:
            TooManyBadImages: see the source.
        """
        found: queue.SimpleQueue[BadFile] = queue.SimpleQueue()
        if self.tell is not None:
            self.source.on_bad = found.put  # from the workers' threads to the reader's
        try:
            with self._parts(step) as part:
                for batch in self._serial(step, part) if self.workers == 0 else self._parallel(step, part):
                    self._pass_on(found)
                    yield batch
        finally:
            self._pass_on(found)

    def names(self, step: int) -> list[str]:
        """What a person would call the images of a whole batch."""
        return self.source.names(self.indices(step, np.arange(self.batch_size)))

    def _serial(self, step: int, part: Part) -> Iterator[Batch]:
        while True:
            yield self._finished([part(step, self._examples())()])
            step += 1

    def _parallel(self, step: int, part: Part) -> Iterator[Batch]:
        # each batch in as many parts as there are workers, so that the next one due is worked on by all of them
        parts = np.array_split(self._examples(), min(self.workers, len(self._examples())))
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="undye-batches")
        pending: deque[list[Future[Batch]]] = deque()
        try:
            while True:
                while len(pending) <= self.ahead:
                    pending.append([pool.submit(part(step, some)) for some in parts])
                    step += 1
                yield self._finished([future.result() for future in pending.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _examples(self) -> np.ndarray:
        return np.array(range(self.batch_size) if self.share is None else self.share)

    @contextmanager
    def _parts(self, step: int) -> Iterator[Part]:
        """What is asked for parts of batches, from a step on."""
        yield lambda step, examples: partial(self._decoded, step, examples)

    def _decoded(self, step: int, examples: np.ndarray) -> Batch:
        indices = self.indices(step, examples)
        if self.crop == "random":
            images = self.source.crops(indices, self._uniform(Stream.TRAIN_CROP, step, examples, 2))
        else:
            images = self.source.images(indices)
        return self._batch(step, examples, images, self.source.labels(indices) if self.labels else None)

    def _batch(self, step: int, examples: np.ndarray, images: np.ndarray, label: np.ndarray | None) -> Batch:
        if self.flip:
            mirrored = self._uniform(Stream.TRAIN_FLIP, step, examples, 1)[:, 0] < 0.5
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return Batch(to_signed(images), None if label is None else torch.from_numpy(label), examples)

    def _uniform(self, stream: Stream, step: int, examples: np.ndarray, count: int) -> np.ndarray:
        """(examples, count) numbers in [0, 1)."""
        return np.array([keyed.generator(self.seed, stream, step, int(i)).random(count) for i in examples])

    def _finished(self, parts: list[Batch]) -> Batch:
        x_0 = parts[0].x_0 if len(parts) == 1 else torch.cat([part.x_0 for part in parts])
        labels = [part.label for part in parts if part.label is not None]
        examples = np.concatenate([part.examples for part in parts])
        return Batch(x_0.pin_memory() if self.pin else x_0, torch.cat(labels) if labels else None, examples)

    def _pass_on(self, found: "queue.SimpleQueue[BadFile]") -> None:
        while self.tell is not None and not found.empty():
            self.tell(f"skipped {found.get()}")
