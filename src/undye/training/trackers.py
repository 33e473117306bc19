"""Where a run's curves and grids are sent, by name: TensorBoard, Weights & Biases, trackio.

A tracker works in a thread of its own and its failures are its own: a network that is down or slow neither stops a run
nor holds it up.
"""

import importlib
import importlib.util
import json
import math
import queue
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from undye.errors import UserError
from undye.files import write_text
from undye.structure import unstructure
from undye.training.events import Event, Failed, Finished, Logged, Measured, Notice, Previewed
from undye.training.run import RunConfig

IDS = "trackers.json"
_IDS_LOCK = threading.Lock()
"""File in the run's folder with what the trackers call this run, so that it goes on there too when it is resumed."""
WAITING = 10_000
"""Events that may wait for a tracker; more are lost to it."""
LAST_WORDS = 60.0
"""Seconds that a tracker has at the end of the run to send what is left."""
FAILURES = 5
"""Failures in a row after which a tracker is left alone."""


class Tracker(ABC):
    """A place that shows runs. Every method may raise anything.

    Args of the constructors: the run's folder, its configuration, and the step that it goes on from (0: a new run).
    """

    def __init__(self, folder: Path, config: RunConfig, resumed_at: int):
        self.folder, self.config, self.resumed_at = folder, config, resumed_at

    @abstractmethod
    def open(self) -> None:
        """Get ready, on the thread that calls the rest."""

    @abstractmethod
    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers at a step."""

    @abstractmethod
    def picture(self, path: Path, step: int) -> None:
        """A sample grid."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """The run has ended."""


class TensorBoard(Tracker):
    """Files under RUN/tensorboard. Steps that will be taken again are dropped."""

    def open(self) -> None:
        """Get ready."""
        from torch.utils.tensorboard import SummaryWriter

        purge = self.resumed_at + 1 if self.resumed_at else None
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Show numbers at a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, path: Path, step: int) -> None:
        """Show a sample grid."""
        self.writer.add_image("samples", np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        """End the run there."""
        self.writer.close()


class WandB(Tracker):
    """Weights & Biases. The step is a number of its own there, for its own only grows, and a resumed run goes back."""

    def open(self) -> None:
        """Get ready."""
        self.wandb: Any = importlib.import_module("wandb")
        self.run = self.wandb.init(
            project=self.config.watch.project,
            id=run_id(self.folder, "wandb"),
            name=self.folder.name,
            dir=str(self.folder),
            config=unstructure(self.config),
            resume="allow",
        )
        self.run.define_metric("*", step_metric="step")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Show numbers at a step."""
        self.run.log({**values, "step": step})

    def picture(self, path: Path, step: int) -> None:
        """Show a sample grid."""
        self.run.log({"samples": self.wandb.Image(str(path)), "step": step})

    def close(self, failed: bool) -> None:
        """End the run there."""
        self.run.finish(exit_code=int(failed))


class Trackio(Tracker):
    """trackio: local first, or a Space of its user's (TRACKIO_SPACE_ID)."""

    def open(self) -> None:
        """Get ready."""
        self.trackio: Any = importlib.import_module("trackio")
        self.run = self.trackio.init(
            project=self.config.watch.project,
            name=run_id(self.folder, "trackio"),
            config=unstructure(self.config),
            resume="allow",
        )

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Show numbers at a step."""
        self.run.log(values, step=step)

    def picture(self, path: Path, step: int) -> None:
        """Show a sample grid."""
        self.run.log({"samples": self.trackio.Image(str(path))}, step=step)

    def close(self, failed: bool) -> None:
        """End the run there."""
        self.run.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def check_trackers(config: RunConfig) -> None:
    """Make sure that what a run's configuration names can be used.

    Raises:
        UserError: if a tracker is not installed.
    """
    for name in config.watch.trackers:
        if name == "auto":
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"{name} is not installed: pip install 'undye[{name}]', or leave it out of --watch.trackers"
            ) from None


def open_trackers(
    folder: Path, config: RunConfig, resumed_at: int, tell: Callable[[Notice], None]
) -> list["InBackground"]:
    """The trackers that a run's configuration names, at work. auto: TensorBoard, where it can be imported.

    Args:
        folder: the run's.
        config: the run.
        resumed_at: the step that it goes on from; 0: a new run.
        tell: called, in the thread of the loop, with the notice that one has failed.
    """
    names = dict.fromkeys("tensorboard" if name == "auto" else name for name in config.watch.trackers)
    opened = []
    for name in names:
        if name == "tensorboard" and "tensorboard" not in config.watch.trackers:
            if importlib.util.find_spec(name) is None:
                continue
            try:
                importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                warnings.warn(f"TensorBoard is installed but cannot be used: {error}", stacklevel=2)
                continue
        opened.append(InBackground(name, TRACKERS[name](folder, config, resumed_at), tell))
    return opened


def run_id(folder: Path, tracker: str) -> str:
    """What a tracker calls this run: made up once, and kept in the run's folder."""
    path = folder / IDS
    with _IDS_LOCK:  # trackers open in threads of their own, and share the file
        try:
            ids = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            ids = {}
        if not isinstance(ids, dict) or not isinstance(ids.get(tracker), str):
            ids = {**(ids if isinstance(ids, dict) else {}), tracker: f"{_plain(folder.name)}-{uuid4().hex[:8]}"}
            write_text(path, json.dumps(ids, indent=2) + "\n")
        return ids[tracker]


def _plain(name: str) -> str:
    """A folder's name without what trackers do not allow in theirs."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:40] or "run"


def scalars(event: Logged | Measured) -> dict[str, float]:
    """The numbers of an event by the names that trackers show; those that are not finite are left out."""
    if isinstance(event, Measured):
        values: dict[str, float | None] = {"nll/bits_per_dim": event.bits_per_dim}
    else:
        values = {
            "loss": event.loss,
            "lr": event.lr,
            "grad_norm": event.grad_norm,
            "images_per_second": event.images_per_second,
            "skipped": event.skipped,
            "memory_gb": event.memory / 1e9,
            "device_memory_gb": None if event.device_memory is None else event.device_memory / 1e9,
            **{f"loss_of_t/{k}": value for k, value in enumerate(event.buckets)},
        }
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


class InBackground:
    """A listener that hands events to a tracker in a thread; what goes wrong there is told once.

    Attributes:
        name: of the tracker.
    """

    def __init__(self, name: str, tracker: Tracker, tell: Callable[[Notice], None]):
        self.name, self._tracker, self._tell = name, tracker, tell
        self._events: queue.Queue[Event] = queue.Queue(WAITING)
        self._problem: str | None = None
        self._told = self._ended = False
        self._thread = threading.Thread(target=self._work, name=f"undye {name}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Pass on what trackers show; at the run's end wait until it is sent, but not for long."""
        if self._ended:
            return
        if isinstance(event, Logged | Measured | Previewed | Finished | Failed):
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self._problem = self._problem or "it does not keep up"
        if isinstance(event, Finished | Failed):
            self._ended = True
            self._thread.join(LAST_WORDS)
            if self._thread.is_alive():
                self._problem = self._problem or f"it did not end within {LAST_WORDS:.0f} s"
        if self._problem is not None and not self._told:
            self._told = True
            text = f"{self.name}: {self._problem}; the run goes on, and log.jsonl has everything"
            self._tell(Notice(text))

    def _work(self) -> None:
        try:
            self._tracker.open()
        except BaseException as error:
            self._problem = _line(error)
            return
        in_a_row = 0
        while in_a_row < FAILURES:
            event = self._events.get()
            try:
                self._pass_on(event)
                in_a_row = 0
            except BaseException as error:
                self._problem = self._problem or _line(error)
                in_a_row += 1
            if isinstance(event, Finished | Failed):
                return

    def _pass_on(self, event: Event) -> None:
        match event:
            case Logged() | Measured():
                self._tracker.scalars(scalars(event), event.step)
            case Previewed(step, path):
                self._tracker.picture(path, step)
            case Finished() | Failed():
                self._tracker.close(isinstance(event, Failed))


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
