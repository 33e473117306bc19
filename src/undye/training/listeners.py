"""Listeners that keep a record of a run: log.jsonl, report.html, and the trackers."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from undye.files import write_text
from undye.training.events import (
    BudgetSet,
    Event,
    Failed,
    Finished,
    Listener,
    Logged,
    Measured,
    Notice,
    Previewed,
    Saved,
    Spiked,
    StepDone,
)
from undye.training.report import Report
from undye.training.run import RunConfig
from undye.training.trackers import open_trackers


class JsonLog:
    """Appends one JSON object per event to a file; each line reaches the file when it is written."""

    def __init__(self, path: Path, resumed_at: int):
        """Lines beyond the step that the run resumes from are dropped: those steps will be taken again."""
        self.path, self.step = path, resumed_at
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if _keep(line, resumed_at)]
            saved = {"event": "saved", "step": resumed_at, "path": f"checkpoints/{resumed_at}"}
            if resumed_at and json.dumps(saved) not in lines:
                lines.append(json.dumps(saved))  # killed between the checkpoint and its line
            write_text(path, "".join(f"{line}\n" for line in lines))

    def __call__(self, event: Event) -> None:
        """Write the events that are worth keeping."""
        match event:
            case StepDone():
                self.step = event.step
            case Notice(text):
                self._write(event, {"step": self.step, "text": text})
            case Saved(step, path) | Previewed(step, path):
                self._write(event, {"step": step, "path": str(path.relative_to(self.path.parent))})
            case Logged() | Spiked() | Measured() | BudgetSet() | Finished() | Failed():
                self._write(event, asdict(event))

    def _write(self, event: Event, values: dict[str, Any]) -> None:
        # JSON has no NaN: the mean of no steps is null
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": type(event).__name__.lower(), **values}) + "\n")


def _keep(line: str, resumed_at: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False  # the half-written last line of a run that was killed
    if not isinstance(record, dict) or "event" not in record:
        return False
    return record["event"] not in ("finished", "failed") and record.get("step", 0) <= resumed_at


def measured_at(log: Path, step: int) -> bool:
    """Whether the log holds a measurement of this step."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines if '"measured"' in line]
    return any(record["event"] == "measured" and record["step"] == step for record in records)


def record_keepers(run: Path, config: RunConfig, resumed_at: int, tell: Callable[[Notice], None]) -> list[Listener]:
    """The listeners that every run has.

    Args:
        run: its folder.
        config: the run.
        resumed_at: the step that it goes on from; 0: a new run.
        tell: called with what a person should know of them.
    """
    # the report last: it reads the log
    return [JsonLog(run / "log.jsonl", resumed_at), *open_trackers(run, config, resumed_at, tell), Report(run, tell)]
