"""Listeners that keep a record of a run: log.jsonl, and TensorBoard where it is installed."""

import importlib.util
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from undye.files import write_text
from undye.training.events import BudgetSet, Event, Finished, Listener, Logged, Previewed, Saved


class JsonLog:
    """Appends one JSON object per event to a file; each line reaches the file when it is written."""

    def __init__(self, path: Path, resumed_at: int):
        """Lines beyond the step that the run resumes from are dropped: those steps will be taken again."""
        self.path = path
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _keep(line, resumed_at)]
            saved = {"event": "saved", "step": resumed_at, "path": f"checkpoints/{resumed_at}"}
            if resumed_at and json.dumps(saved) not in lines:
                lines.append(json.dumps(saved))  # killed between the checkpoint and its line
            write_text(path, "".join(f"{line}\n" for line in lines))

    def __call__(self, event: Event) -> None:
        """Write the events that are worth keeping."""
        if isinstance(event, Logged | BudgetSet | Saved | Previewed | Finished):
            record: dict[str, Any] = {"event": type(event).__name__.lower(), **asdict(event)}
            if "path" in record:
                record["path"] = str(Path(record["path"]).relative_to(self.path.parent))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _keep(line: str, resumed_at: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False  # the half-written last line of a run that was killed
    if not isinstance(record, dict) or "event" not in record:
        return False
    return record["event"] != "finished" and record.get("step", 0) <= resumed_at


class TensorBoard:
    """Scalars and sample grids for TensorBoard, under RUN/tensorboard."""

    def __init__(self, folder: Path, resumed_at: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)

    def __call__(self, event: Event) -> None:
        """Forward what TensorBoard can show."""
        if isinstance(event, Logged):
            for name in ("loss", "lr", "grad_norm", "images_per_second"):
                self.writer.add_scalar(name, getattr(event, name), event.step)
        elif isinstance(event, Previewed):
            picture = np.asarray(Image.open(event.path).convert("RGB"))
            self.writer.add_image("samples", picture, event.step, dataformats="HWC")
        elif isinstance(event, Finished):
            self.writer.close()


def record_keepers(run: Path, resumed_at: int) -> list[Listener]:
    """The listeners that every run has."""
    keepers: list[Listener] = [JsonLog(run / "log.jsonl", resumed_at)]
    if importlib.util.find_spec("tensorboard") is not None:
        try:
            keepers.append(TensorBoard(run / "tensorboard", resumed_at))
        except ImportError as error:
            warnings.warn(f"TensorBoard is installed but cannot be used: {error}", stacklevel=2)
    return keepers
