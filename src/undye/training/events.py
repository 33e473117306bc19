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
    """A line for the log: means over the steps since the last one.

    Attributes:
        step: how many are done.
        loss: of the steps that were taken; NaN if none was. So are grad_norm and buckets.
        images_per_second: over the whole time since the last line, grids and checkpoints included.
        elapsed: seconds of the whole run.
        buckets: the mean unweighted loss in each tenth of 1..T, the low t first; None where no t was drawn.
        skipped: steps that were not taken, for want of finite numbers.
        memory: bytes of this process in main memory.
        device_memory: the most bytes that tensors took on the GPU so far; None where there is none.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    images_per_second: float
    elapsed: float
    buckets: tuple[float | None, ...] = ()
    skipped: int = 0
    memory: int = 0
    device_memory: int | None = None


@dataclass(frozen=True)
class Spiked:
    """The loss of a line of the log is far above the lines before; `usual` is their median."""

    step: int
    loss: float
    usual: float


@dataclass(frozen=True)
class Measured:
    """A quick measurement of the averaged weights on held-out images: the variational bound.

    Attributes:
        step: how many are done.
        bits_per_dim: mean over the images; standard_error: of that mean; images: their number.
        draws: times drawn for each image.
        seconds: what it took.
    """

    step: int
    bits_per_dim: float
    standard_error: float
    images: int
    draws: int
    seconds: float


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


@dataclass(frozen=True)
class Failed:
    """The run ended with an error, `text`."""

    step: int
    text: str


Event = (
    Loading
    | Notice
    | Started
    | BudgetSet
    | StepDone
    | Logged
    | Spiked
    | Measured
    | Saved
    | Previewed
    | Finished
    | Failed
)
Listener = Callable[[Event], None]
