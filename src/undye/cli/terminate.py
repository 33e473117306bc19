"""SIGTERM as an end in good order: what was half written is removed, as with Ctrl-C, and the exit code is 143."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminable() -> Generator[None]:
    """While active, SIGTERM raises SystemExit(143) where the program is, so that everything open is closed.

    Not in one of several processes: Python hears no signal while it waits for another one that may be gone.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield
        return

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # not a second time, in the midst of tidying up
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
