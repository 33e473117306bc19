"""What has been measured so far: kept, whatever happens to the metrics that come after."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undye.errors import UserError
from undye.files import write_text

ProgressOf = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


def ticker(progress: ProgressOf | None, name: str) -> Callable[[int, int], None] | None:
    """The progress of one of the things that are done."""
    return None if progress is None else lambda done, total: progress(name, done, total)


class UnfinishedReport(UserError):
    """Some of the metrics could not be measured.

    Attributes:
        report: the others, as `undye.evaluate` would have returned them; `report["failed"]` says why these were not.
    """

    def __init__(self, message: str, report: dict[str, Any]):
        super().__init__(message)
        self.report = report


class Findings:
    """The metrics of a report while it grows.

    Attributes:
        head: what the report says beside the numbers; may be added to.
        metrics: what has been measured.
        failed: why others could not be.
    """

    def __init__(self, head: dict[str, Any], out: Path | None = None, alone: bool = True):
        """Nothing yet.

        Args:
            head: what the report begins with.
            out: a .json file that has the report after each metric.
            alone: whether no other process waits for this one, so that it may go on after an error.
        """
        self.head, self.out, self.alone = head, out, alone
        self.metrics: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self._first: UserError | None = None

    def add(self, metric: str, entry: dict[str, Any]) -> None:
        """Keep what a metric has given, on disk too."""
        self.metrics[metric] = entry
        if self.out is not None:
            write_text(self.out, json.dumps(self.report(), indent=2, allow_nan=False) + "\n")

    @contextmanager
    def attempt(self, *metrics: str) -> Iterator[None]:
        """A block that measures `metrics`: an error of the user's is told at the end, after the other metrics."""
        try:
            yield
        except UserError as error:
            if not self.alone:
                raise
            self._first = self._first or error
            self.failed.update({m: str(error) for m in metrics if m not in self.metrics})

    def report(self) -> dict[str, Any]:
        """All of it as plain data without NaN, ready for JSON."""
        failed = {"failed": self.failed} if self.failed else {}
        return without_nan({**self.head, "metrics": self.metrics, **failed})

    def finish(self) -> dict[str, Any]:
        """The report.

        Raises:
            UserError: the one that a metric has raised; an `UnfinishedReport` where others have been measured.
        """
        if self._first is None:
            return self.report()
        if not self.metrics:
            raise self._first
        if self.out is not None:
            write_text(self.out, json.dumps(self.report(), indent=2, allow_nan=False) + "\n")
        what = "; ".join(f"{', '.join(names)}: {why}" for why, names in _grouped(self.failed).items())
        raise UnfinishedReport(f"measured {', '.join(self.metrics)}, but not {what}", self.report()) from self._first


def without_nan(value: Any) -> Any:
    """JSON has no NaN: None in its place (the standard error of one image)."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _grouped(failed: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for metric, why in failed.items():
        groups.setdefault(why, []).append(metric)
    return groups
