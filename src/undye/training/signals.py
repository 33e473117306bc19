"""Ctrl-C, SIGTERM and SIGUSR1 as a wish to stop: the loop ends its step, saves, and leaves a run that can go on.

SIGTERM and SIGUSR1 are what schedulers (SLURM with --signal) send before they take a machine away.
"""

import signal
import threading
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class StopSignals:
    """While active, the first SIGINT, SIGTERM or SIGUSR1 only sets `received`; a second one acts as it always did."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        """Listen; outside the main thread Python allows no handlers, and the signals keep their usual effect."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore what was there before."""
        self._restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyrefly: ignore
        self._previous = {}
