"""The batches of a run: a function of (seed, step) alone, so that a run can go on from any step."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from undye import keyed
from undye.data.pixels import to_signed
from undye.data.source import ImageSource
from undye.keyed import Stream


@dataclass(frozen=True)
class Batch:
    """x_0: (B, C, H, W) in [-1, 1]; label: (B,) int64 or None; examples: their numbers in the global batch."""

    x_0: Tensor
    label: Tensor | None
    examples: np.ndarray


@dataclass(frozen=True)
class BatchStream:
    """Endless shuffled batches: every image once per epoch, batches running on across the end of an epoch.

    Attributes:
        source: the images.
        batch_size: images per step.
        seed: names the order and the flips.
        flip: mirror half of the images.
        labels: hand out class labels.
        ahead: batches prepared in the background; for sources that decode files.
        share: the part of each batch that this process is to have; None: all of it.
    """

    source: ImageSource
    batch_size: int
    seed: int
    flip: bool = False
    labels: bool = False
    ahead: int = 0
    share: range | None = None

    def indices(self, step: int, examples: np.ndarray) -> np.ndarray:
        """Which images the examples of a batch are."""
        n = len(self.source)
        epochs, offsets = np.divmod(step * self.batch_size + examples, n)
        indices = np.empty(len(examples), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = _order(n, self.seed, int(epoch))[offsets[here]]
        return indices

    def at(self, step: int) -> Batch:
        """The batch of step number `step` (the first is 0), or this process's share of it."""
        examples = np.array(range(self.batch_size) if self.share is None else self.share)
        indices = self.indices(step, examples)
        images = self.source.images(indices)
        if self.flip:
            mirrored = np.array([keyed.uniform(self.seed, Stream.TRAIN_FLIP, step, int(i)) < 0.5 for i in examples])
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        label = self.source.labels(indices) if self.labels else None
        return Batch(to_signed(images), None if label is None else torch.from_numpy(label), examples)

    def since(self, step: int) -> Iterator[Batch]:
        """The batches of step `step`, `step + 1`, ..., without end."""
        if self.ahead == 0:
            while True:
                yield self.at(step)
                step += 1
        with ThreadPoolExecutor(max_workers=self.ahead) as pool:
            pending = [pool.submit(self.at, step + i) for i in range(self.ahead)]
            step += self.ahead
            while True:
                ready = pending.pop(0).result()
                pending.append(pool.submit(self.at, step))
                step += 1
                yield ready


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch; a few are kept because a batch may span two of them."""
    return keyed.permutation(n, seed, Stream.TRAIN_ORDER, epoch)
