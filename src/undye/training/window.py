"""Means over the last steps, for the log."""

import math
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from undye.training.events import Logged, Spiked, StepDone
from undye.training.spikes import remember, usual_if_spike

LOG_EVERY = 50
"""Steps between the lines of the log."""
BUCKETS = 10
"""Equal parts of 1..T whose losses are logged apart."""


@dataclass
class Sums:
    """What is summed up; saved with a checkpoint so that a resumed run logs the same means.

    Attributes:
        loss, grad_norm: of the steps that were taken, `steps` of them; `skipped` were not.
        images, seconds: of all steps.
        bucket_losses, bucket_counts: unweighted losses of the examples whose t lies in each bucket, and their number.
        last_loss: the mean of the last line of the log that has one.
        history: the means of the lines before, as `spikes` wants them; spiking: the last line was a spike.
    """

    loss: float = 0.0
    grad_norm: float = 0.0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    last_loss: float | None = None
    skipped: int = 0
    bucket_losses: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    bucket_counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    history: list[float] = field(default_factory=list)
    spiking: bool = False


class Window:
    """Adds up steps and gives lines for the log.

    Args:
        num_steps: T, of which the buckets are equal parts.
        sums: where a checkpoint has left off.
    """

    def __init__(self, num_steps: int, sums: Sums | None = None):
        self.num_steps = num_steps
        self._sums = sums or Sums()
        self._start = self._mark = time.perf_counter()
        self._spent = 0.0

    def start(self, spent: float) -> None:
        """Start the clock, `spent` seconds into the run."""
        self._start = self._mark = time.perf_counter()
        self._spent = spent

    def elapsed(self) -> float:
        """Seconds of the whole run so far."""
        return self._spent + time.perf_counter() - self._start

    def loss(self) -> float | None:
        """The mean loss of the last line of the log; before there is one, of the steps so far."""
        s = self._sums
        return s.last_loss if s.last_loss is not None or not s.steps else s.loss / s.steps

    def sums(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return asdict(self._sums)

    def add(self, event: StepDone, last: bool = False) -> list[Logged | Spiked]:
        """Count a step. After the first, every `LOG_EVERY`-th and the last: a line, and a spike if it is one."""
        now, s = time.perf_counter(), self._sums
        s.images += event.images
        s.seconds += now - self._mark
        self._mark = now
        if event.skipped:
            s.skipped += 1  # it has no loss, or no gradient, that could be averaged
        else:
            s.steps += 1
            s.loss += event.loss
            s.grad_norm += event.grad_norm
            if event.t is not None and event.losses is not None:
                self._add_buckets(event.t, event.losses)
        if event.step % LOG_EVERY and event.step != 1 and not last:
            return []
        line = self._line(event)
        usual = usual_if_spike(line.loss, s.history)
        kept = line.loss if math.isfinite(line.loss) else s.last_loss
        self._sums = Sums(last_loss=kept, history=remember(s.history, line.loss), spiking=usual is not None)
        # a loss that stays high is told once
        return [line] if usual is None or s.spiking else [line, Spiked(line.step, line.loss, usual)]

    def _add_buckets(self, t: Tensor, losses: Tensor) -> None:
        bucket = (t.numpy() - 1) * BUCKETS // self.num_steps
        sums = np.bincount(bucket, weights=losses.numpy(), minlength=BUCKETS).tolist()
        counts = np.bincount(bucket, minlength=BUCKETS).tolist()
        s = self._sums
        s.bucket_losses = [a + b for a, b in zip(s.bucket_losses, sums, strict=True)]
        s.bucket_counts = [a + b for a, b in zip(s.bucket_counts, counts, strict=True)]

    def _line(self, event: StepDone) -> Logged:
        s = self._sums
        pairs = zip(s.bucket_losses, s.bucket_counts, strict=True)
        return Logged(
            event.step,
            s.loss / s.steps if s.steps else math.nan,
            event.lr,
            s.grad_norm / s.steps if s.steps else math.nan,
            s.images / max(s.seconds, 1e-9),
            self.elapsed(),
            tuple(total / count if count else None for total, count in pairs),
            s.skipped,
            process_memory(),
            device_memory(),
        )


def bucket_bounds(num_steps: int) -> list[tuple[int, int]]:
    """The first and the last t of each bucket; where T is below `BUCKETS`, some have their last before their first."""
    edges = [-(-num_steps * k // BUCKETS) for k in range(BUCKETS + 1)]
    return [(low + 1, high) for low, high in pairwise(edges)]


def process_memory() -> int:
    """Bytes of main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def device_memory() -> int | None:
    """The most bytes that tensors have taken on this process's GPU; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
