"""Means over the last steps, for the log."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from undye.training.events import Logged, StepDone

LOG_EVERY = 50
"""Steps between the lines of the log."""


@dataclass
class Sums:
    """What is summed up; saved with a checkpoint so that a resumed run logs the same means."""

    loss: float = 0.0
    grad_norm: float = 0.0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    last_loss: float | None = None
    """The mean of the last line of the log."""


class Window:
    """Adds up steps and gives lines for the log."""

    def __init__(self, sums: Sums | None = None):
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

    def add(self, event: StepDone, last: bool = False) -> Logged | None:
        """Count a step; a line after the first step, every `LOG_EVERY`-th, and the last."""
        now, s = time.perf_counter(), self._sums
        s.loss += event.loss
        s.grad_norm += event.grad_norm
        s.images += event.images
        s.steps += 1
        s.seconds += now - self._mark
        self._mark = now
        if event.step % LOG_EVERY and event.step != 1 and not last:
            return None
        line = Logged(
            event.step,
            s.loss / s.steps,
            event.lr,
            s.grad_norm / s.steps,
            s.images / max(s.seconds, 1e-9),
            self.elapsed(),
        )
        self._sums = Sums(last_loss=line.loss)
        return line
