"""RunConfig: everything that defines a training run. Plain data; no torch here: the command line starts fast."""

from dataclasses import dataclass, field, replace
from typing import Literal

from undye.config import ModelConfig
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the weights are learned."""

    steps: int = 10_000
    """Optimiser steps. With a time budget this number is found by measuring."""
    batch_size: int = 64
    """Images per step, over all processes."""
    optimizer: Literal["adam", "muon"] = "adam"
    """muon: Muon for the convolutions inside the network, Adam for the rest."""
    lr: float = 2e-4
    """Peak learning rate."""
    warmup: int = 100
    """Steps over which the learning rate grows linearly from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """What the learning rate does after the warm-up; linear and cosine reach 0 at the last step."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, which are what is saved and sampled; warmed up as (1 + step) / (10 + step)."""
    ema_stds: tuple[float, ...] = ()
    """Lengths of further averages, such as 0.05 0.10, from which `undye ema` makes one of any length afterwards."""
    ema_every: int = 500
    """Steps between the snapshots of these further averages, all of which stay."""
    label_drop: float = 0.1
    """Fraction of the labels that are hidden, for classifier-free guidance (only with labels)."""
    objective: Literal["simple", "vlb", "hybrid"] = "simple"
    """simple: the paper's L_simple; vlb: the variational bound; hybrid: both, for learned variances."""
    distance: Literal["l2", "l1", "huber"] = "l2"
    """How errors are measured (simple and hybrid)."""
    weighting: Literal["simple", "vlb", "snr", "min_snr", "p2"] = "simple"
    """How much each timestep counts (simple and hybrid); simple: all alike."""
    timesteps: Literal["uniform", "stratified", "importance"] = "uniform"
    """How timesteps are drawn: independently, spread evenly over each batch, or where the loss has been large."""
    flip: bool = False
    """Mirror half of the images left to right."""
    crop: Literal["center", "random"] = "center"
    """Which part of an image that is not of the asked shape: its middle, or another one each time."""
    balance: Literal["none", "classes"] = "none"
    """classes: every class equally often, however many images it has (only with labels)."""
    workers: int | None = None
    """Threads that decode and prepare batches, in each process; 0: none, each batch when it is needed; left out: as
    the data and the machine need. The result does not depend on it."""
    prefetch: int = 4
    """Batches that they prepare ahead."""
    shuffle_block: int = 10_000
    """Rows of a stream (hf-stream:) that are shuffled together; twice as many are held in memory, encoded."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """Arithmetic of the network. auto: bf16 on a CPU with bf16 matrix units (AMX) or a GPU that has it, else fp32;
    fp16: for GPUs without bf16; fp64: for comparisons."""
    accumulate: int = 1
    """Parts in which a process works through its share of a batch, one after another, to save memory."""
    compile: bool = False
    """Compile the network (torch.compile): slow to start, faster afterwards."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several processes: each with all of the network (ddp), or with a part of its weights (fsdp), for big ones."""
    non_finite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient is no finite number: stop before the weights are changed, or skip the step and count."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved."""

    every: int = 5_000
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """How many of them stay: the newest."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of this stay for good; 0: none."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """The sample grids written during training, always from the same noise."""

    count: int = 5
    """Grids over the whole run, evenly spaced; the last one shows the final weights. 0: none."""
    n: int = 64
    """Images in a grid."""
    steps: int = 25
    """Steps to an image, sampled as `undye sample --steps` does."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is shown of a run beside log.jsonl and report.html. Only held_out has to do with what is learned."""

    trackers: tuple[Literal["auto", "tensorboard", "wandb", "trackio"], ...] = ("auto",)
    """Where curves and grids are sent. auto: TensorBoard, if it is installed; no name at all: nowhere."""
    project: str = "undye"
    """The project's name at Weights & Biases and trackio."""
    nll_every: int = 0
    """Steps between quick measurements of bits/dim (averaged weights) on images that are not trained on; 0: none."""
    nll_images: int = 256
    """Images of such a measurement: of the test split, or held out."""
    nll_draws: int = 8
    """Times drawn for each of them."""
    held_out: float = 0.0
    """Fraction of the images that is not trained on but measured on. 0: none, and the data's own test split is used."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run: the model, its data, and how it is trained."""

    preset: str = "cpu"
    data: str = ""
    """A name (fashion-mini, ...), a folder of images, or an .npz / .npy file."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize and crop the images to; None: as they are."""
    channels: Literal[1, 3] | None = None
    """None: 3 if any image has colour, else 1."""
    init: str | None = None
    """A model to start from, instead of random weights."""
    init_settings: tuple[str, ...] = ()
    """KEY=VALUE: what another project's model, to start from, does not say of itself."""
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    labels: Literal["none", "folders", "auto"] = "none"
    """Class labels: none, from sub-folder names (folders), or those that come with the data (auto)."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    budget_seconds: float | None = None
    """Time from the first step to the final weights; it decides the number of steps."""
    seed: int = 0
    license: str = "unknown"
    """Of the weights, for the model card: an SPDX name such as mit or cc-by-4.0."""

    def __post_init__(self) -> None:
        """Catch mistakes before the first step."""
        t, c, p = self.training, self.checkpoint, self.preview
        for name, value, low in (
            ("training.steps", t.steps, 1), ("training.batch-size", t.batch_size, 1), ("training.warmup", t.warmup, 0),
            ("checkpoint.every", c.every, 1), ("training.accumulate", t.accumulate, 1), ("checkpoint.keep", c.keep, 1),
            ("training.workers", t.workers or 0, 0), ("training.prefetch", t.prefetch, 1),
            ("training.shuffle-block", t.shuffle_block, 1),
            ("checkpoint.keep-every", c.keep_every, 0), ("preview.count", p.count, 0),
            ("preview.n", p.n, 1), ("preview.steps", p.steps, 1), ("seed", self.seed, 0),
            ("training.grad-clip", t.grad_clip, 0), ("training.ema-every", t.ema_every, 1),
        ):  # fmt: skip
            if not value >= low:
                raise UserError(f"--{name} must be at least {low}, got {value}")
        w = self.watch
        for name, value, low in (
            ("nll-every", w.nll_every, 0), ("nll-images", w.nll_images, 2), ("nll-draws", w.nll_draws, 1)
        ):  # fmt: skip
            if value < low:
                raise UserError(f"--watch.{name} must be at least {low}, got {value}")
        if not 0 <= w.held_out <= 0.5:
            raise UserError(f"--watch.held-out must lie in [0, 0.5], got {w.held_out}")
        if not w.project or "/" in w.project:
            raise UserError(f"--watch.project must be a name without a slash, got {w.project!r}")
        if not 0 < t.lr < float("inf"):
            raise UserError(f"--training.lr must be a positive number, got {t.lr}")
        for name, value in (("ema-decay", t.ema_decay), ("label-drop", t.label_drop), ("beta2", t.beta2)):
            if not 0 <= value < 1:
                raise UserError(f"--training.{name} must lie in [0, 1), got {value}")
        if not all(0.001 <= std <= 0.28 for std in t.ema_stds) or len(set(t.ema_stds)) < len(t.ema_stds):
            raise UserError(
                f"--training.ema-stds are parts of the run from 0.001 to 0.28, each once, such as 0.05 0.10, "
                f"got {' '.join(map(str, t.ema_stds))}"
            )
        if t.objective == "vlb" and (t.distance, t.weighting) != ("l2", "simple"):
            raise UserError("the vlb objective has its own distance and weights: leave both out, or choose simple")
        # with --init the model is another's, and is looked at once it is loaded
        if self.init is None and t.objective == "hybrid" and self.model.variance not in ("learned_range", "learned"):
            raise UserError("the hybrid objective trains a variance: choose --model.variance learned_range or learned")
        if self.init is None and t.weighting == "vlb" and self.model.variance not in ("fixed_small", "fixed_large"):
            raise UserError("the vlb weighting is for fixed variances: choose --training.objective vlb or hybrid")
        if self.seed >= 2**63:
            raise UserError("--seed must be below 2^63")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise UserError("--budget must be positive, such as 90s, 10m or 1.5h")

    def with_steps(self, steps: int, warmup: int | None = None) -> "RunConfig":
        """The same run with another number of steps, and another warm-up if that is given."""
        warmup = self.training.warmup if warmup is None else warmup
        return replace(self, training=replace(self.training, steps=steps, warmup=warmup))


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds in '90s', '10m', '1.5h', '1h30m' or '2d'; a number without a unit is an error.

    Raises:
        UserError: for anything else.
    """
    total, number, seen = 0.0, "", False
    for char in text.strip().lower():
        if char in _UNITS and number:
            try:
                total += float(number) * _UNITS[char]
            except ValueError:
                break
            number, seen = "", True
        elif char.isdigit() or char == ".":
            number += char
        else:
            number = "?"
            break
    if number or not seen or total <= 0:
        raise UserError(f"cannot read the time {text!r}: write it as 90s, 10m, 1.5h or 1h30m")
    return total
