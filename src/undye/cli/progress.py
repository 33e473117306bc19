"""Progress of a command that counts: a bar on a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY = 15.0
"""Seconds between the plain lines of a log."""


class Progress:
    """Called with (done, total)."""

    def __init__(self, what: str, unit: str, quiet: bool = False):
        self.what, self.unit, self.quiet = what, unit, quiet
        self._bar: tqdm | None = None
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        """Start the clock."""
        self._start = self._last = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the terminal clean."""
        self.close()

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, desc=self.what, unit=f" {self.unit}", leave=False, file=sys.stderr)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            left = f", {(self._last - self._start) / done * (total - done):.0f}s left" if done else ""
            print(f"{self.what}: {done:,} of {total:,} {self.unit}{left}", file=sys.stderr, flush=True)
