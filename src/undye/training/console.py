"""A run on the terminal: a progress bar where someone watches, plain lines where it is a log."""

import math
import sys
import time
from typing import TextIO

from tqdm import tqdm

from undye.training.events import (
    BudgetSet,
    Event,
    Finished,
    Loading,
    Measured,
    Notice,
    Previewed,
    Saved,
    Spiked,
    Started,
    StepDone,
)
from undye.training.window import device_memory, process_memory

LINE_EVERY = 15.0
"""Seconds between the plain lines of a log."""
REFRESH_EVERY = 1.0
"""Seconds between the numbers beside a bar."""


class Console:
    """Shows loss, rate, memory and time left."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.bar: tqdm | None = None
        self.total: int | None = None
        self._start = self._last_line = time.monotonic()
        self._first_step = 0
        self._losses: list[float] = []
        self._images = self._skipped = 0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Notice(text):
                self._say(text)
            case Loading(done, total):
                self._loading(done, total)
            case Started(first_step, total, lines):
                if self.bar is not None:
                    self.bar.close()
                    self.bar = None
                for line in lines:
                    self._say(line)
                self.total, self._first_step = total, first_step
                self._start = self._last_line = time.monotonic()
                if self.stream.isatty():
                    self.bar = tqdm(total=total, initial=first_step, unit="step", file=self.stream, dynamic_ncols=True)
            case BudgetSet(_, total, previews, seconds, budget):
                self.total = total
                speed = f"{1 / seconds:.1f} steps/s" if seconds < 1 else f"{seconds:.1f} s per step"
                grids = f"{previews} sample grid{'' if previews == 1 else 's'}"
                self._say(f"budget {clock(budget)}: measured {speed}, so {total:,} steps and {grids} in all")
                if self.bar is not None:
                    self.bar.total = total
                    self.bar.refresh()
            case StepDone():
                self._step(event)
            case Spiked(step, loss, usual):
                self._say(f"step {step}: the loss has jumped to {loss:.4g}, from about {usual:.4g}")
            case Measured(step, bits, error, images):
                self._say(f"step {step}: {bits:.3f} +- {error:.3f} bits/dim on {images:,} held-out images")
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

    def _step(self, event: StepDone) -> None:
        """The mean loss since the last line or refresh, whichever this stream has."""
        if event.skipped:
            self._skipped += 1
        else:
            self._losses.append(event.loss)
        self._images += event.images
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update()
        if now - self._last_line < (REFRESH_EVERY if self.bar is not None else LINE_EVERY) and event.step != self.total:
            return
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        rate = self._images / max(now - self._last_line, 1e-9)
        memory = show_bytes(device_memory() or process_memory())
        if self.bar is not None:
            numbers = {"loss": f"{loss:.4f}", "img_s": f"{rate:.0f}", "memory": memory}
            self.bar.set_postfix(numbers | ({"skipped": self._skipped} if self._skipped else {}))
        else:
            skipped = f", {self._skipped} steps skipped so far" if self._skipped else ""
            self._say(f"{self._line(event.step, loss, rate, now)}, {memory}{skipped}")
        self._last_line, self._losses, self._images = now, [], 0

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

    def _line(self, step: int, loss: float, rate: float, now: float) -> str:
        text = f"step {step:,}"
        if self.total:
            left = (now - self._start) / max(1, step - self._first_step) * (self.total - step)
            text += f" of {self.total:,} ({step / self.total:.0%}), {clock(left)} left"
        return f"{text}: loss {loss:.4f}, {rate:.0f} images/s"

    def _say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)


def show_bytes(count: int) -> str:
    """Bytes as people write them: 640 MB, 3.2 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def clock(seconds: float) -> str:
    """A time as people write it: 42s, 5m00s, 2h03m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
