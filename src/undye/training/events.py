"""What a training run tells the world. The loop emits these; progress, logs, grids and checkpoints listen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Loading:
    """Images are being decoded before the first step."""

    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something that a person should know."""

    text: str


@dataclass(frozen=True)
class Started:
    """Everything is ready. `lines`: what a person should know, one statement each."""

    first_step: int
    total_steps: int | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class BudgetSet:
    """The number of steps that fits the time budget, found at `step`."""

    step: int
    total_steps: int
    previews: int
    seconds_per_step: float
    budget: float


@dataclass(frozen=True)
class StepDone:
    """An optimiser step.

    Attributes:
        step: how many are done.
        loss: the weighted mean over the batch; grad_norm: before clipping; images: of all processes.
        t: (B,) timesteps; losses: (B,) unweighted, of all processes' examples; None where nobody told.
        skipped: the weights did not change, for the gradient was not finite.
        flag: the largest of what the processes were told, see `Trainer.flag`.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    images: int
    t: Tensor | None = None
    losses: Tensor | None = None
    skipped: bool = False
    flag: int = 0


@dataclass(frozen=True)
class Logged:
    """A line for the log: means over the steps since the last one."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    images_per_second: float
    elapsed: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Previewed:
    """A sample grid was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The run ended: completed, or stopped by a signal at a step from which it can be resumed."""

    step: int
    completed: bool
    elapsed: float


Event = Loading | Notice | Started | BudgetSet | StepDone | Logged | Saved | Previewed | Finished
Listener = Callable[[Event], None]
