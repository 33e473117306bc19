"""A run on the terminal: a progress bar where someone watches, plain lines where it is a log."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

from undye.training.events import BudgetSet, Event, Finished, Loading, Logged, Previewed, Saved, Started, StepDone

LINE_EVERY = 15.0
"""Seconds between the plain lines of a log."""


class Console:
    """Shows loss, rate and time left."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.bar: tqdm | None = None
        self.total: int | None = None
        self._last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Loading(done, total):
                self._loading(done, total)
            case Started(first_step, total, lines):
                for line in lines:
                    self._say(line)
                self.total = total
                if self.stream.isatty():
                    self.bar = tqdm(total=total, initial=first_step, unit="step", file=self.stream, dynamic_ncols=True)
            case BudgetSet(_, total, seconds, budget):
                self.total = total
                self._say(f"budget {clock(budget)}: measured {1 / seconds:.1f} steps/s, so {total:,} steps in all")
                if self.bar is not None:
                    self.bar.total = total
                    self.bar.refresh()
            case StepDone() if self.bar is not None:
                self.bar.update()
            case Logged(step, loss, _, _, rate, elapsed):
                if self.bar is not None:
                    self.bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{rate:.0f}")
                elif time.monotonic() - self._last_line >= LINE_EVERY or step == self.total:
                    self._last_line = time.monotonic()
                    self._say(self._line(step, loss, rate, elapsed))
            case Saved(step, path):
                self._say(f"step {step}: saved {path}")
            case Previewed(step, path):
                self._say(f"step {step}: samples in {path}")
            case Finished(step, completed, elapsed):
                if self.bar is not None:
                    self.bar.close()
                    self.bar = None
                what = "finished" if completed else "stopped; go on with --resume"
                self._say(f"step {step}: {what} after {clock(elapsed)}")

    def _loading(self, done: int, total: int) -> None:
        if self.stream.isatty():
            if self.bar is None:
                self.bar = tqdm(total=total, desc="reading images", file=self.stream, dynamic_ncols=True, leave=False)
            self.bar.update(done - self.bar.n)
            if done == total:
                self.bar.close()
                self.bar = None
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self._say(f"reading images: {done:,} of {total:,}")

    def _line(self, step: int, loss: float, rate: float, elapsed: float) -> str:
        text = f"step {step:,}"
        if self.total:
            left = elapsed / max(1, step) * (self.total - step)
            text += f" of {self.total:,} ({step / self.total:.0%}), {clock(left)} left"
        return f"{text}: loss {loss:.4f}, {rate:.0f} images/s"

    def _say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """A time as people write it: 42s, 5m00s, 2h03m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
