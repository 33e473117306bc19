"""A run from its configuration to its final checkpoint: data, model, trainer, listeners and signals put together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from undye.checkpoint.load import load
from undye.checkpoint.native import (
    WEIGHTS,
    Snapshot,
    TrainState,
    checkpoints,
    load_train_state,
    read_train_values,
    read_weights,
)
from undye.data import NAMED_DATASETS
from undye.data.source import ArraySource
from undye.denoiser import Denoiser
from undye.device import pick_device, supports_bf16
from undye.errors import UserError
from undye.files import remove, remove_temporaries
from undye.pictures import enlarge, make_grid, save_png
from undye.sampling import sample
from undye.training.batches import BatchStream
from undye.training.budget import BudgetPlanner
from undye.training.events import (
    BudgetSet,
    Event,
    Finished,
    Listener,
    Loading,
    Notice,
    Previewed,
    Saved,
    Started,
    StepDone,
)
from undye.training.folder import RunFolder, continue_run
from undye.training.listeners import record_keepers
from undye.training.run import RunConfig
from undye.training.saver import Saver, last_good
from undye.training.setup import build_model, build_objective, check_shape, from_config, load_data
from undye.training.signals import StopSignals
from undye.training.trainer import Trainer
from undye.training.window import Sums, Window

PREVIEW_SHARE = 0.1
"""The most of a time budget that goes into sample grids."""
DECODERS = 4
"""Batches prepared ahead where images are decoded as they are needed."""


class Interrupted(Exception):
    """The run was stopped by a signal, saved, and can be resumed."""

    def __init__(self, signal: Signals):
        super().__init__(f"stopped by {signal.name}")
        self.signal = signal


def run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    device: str | None = None,
    listeners: Sequence[Listener] = (),
) -> Path:
    """Train a model.

    Args:
        config: the run.
        out: its folder, made here.
        resume: go on with the run in `out` if there is one.
        device: "cpu", "cuda", "mps"; None: the best there is.
        listeners: called with each event, beside those that keep the run's records.

    Returns:
        The folder of the final checkpoint.

    Raises:
        UserError: for data or settings that cannot be used; nothing is written then.
        Interrupted: after a signal, when the state is saved.
    """
    folder = RunFolder(Path(out))
    config = with_absolute_paths(config)
    previous = None
    if resume and folder.exists():
        stored = folder.read_config()
        config = continue_run(stored, config)
        remove_temporaries(folder.path)
        remove_temporaries(folder.checkpoints)
        remove_temporaries(folder.samples)
        found = checkpoints(folder.path)
        if found and is_finished(found[-1], config):
            for listener in listeners:
                listener(
                    Started(config.training.steps, config.training.steps, (f"{found[-1]} is the end of this run",))
                )
            return found[-1]
        previous = newest_whole(found, listeners)
    else:
        folder.check_new()
    return _Session(config, folder, previous, pick_device(device), list(listeners)).run()


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run, whatever folder it is resumed from."""
    data = config.data
    if data and data not in NAMED_DATASETS:
        data = str(Path(data).expanduser().absolute())
    init = config.init and str(Path(config.init).expanduser().absolute())
    return replace(config, data=data, init=init)


def is_finished(checkpoint: Path, config: RunConfig) -> bool:
    """Whether a checkpoint is the last one of its run."""
    try:
        values = read_train_values(checkpoint)
    except UserError:
        return False
    return values["planned"] and int(checkpoint.name) >= config.training.steps


def newest_whole(found: list[Path], listeners: Sequence[Listener]) -> Path | None:
    """The newest checkpoint that can be read; those that cannot are moved aside, and that is said."""
    for path in reversed(found):
        try:
            load(path)
            load_train_state(path)
        except UserError as error:
            aside = path.with_name(f"{path.name}.damaged")
            remove(aside)
            path.rename(aside)
            for listener in listeners:
                listener(Notice(f"{error}; kept as {aside.name}, going on from the one before"))
        else:
            return path
    return None


class _Session:
    """One process's part of a run, from start or resumption to the end or a signal."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        previous: Path | None,
        device: torch.device,
        listeners: list[Listener],
    ):
        self.folder, self.listeners, self.previous = folder, listeners, previous
        self.source = load_data(config, previous is None, lambda done, total: self.emit(Loading(done, total)))
        if previous is not None:
            self.config, denoiser = config, from_config(config.model)
            check_shape(config.model, self.source)
        else:
            self.config, denoiser = build_model(config, self.source)
        self.window = Window()
        self.saver = Saver(folder, self.config.checkpoint)
        self.trainer, self.notes = self._trainer(denoiser, device)
        self.planner: BudgetPlanner | None = None
        spent = 0.0
        state = None
        if previous is not None:
            state = load_train_state(previous)
            spent = state.values["elapsed"]
            self.window = Window(Sums(**state.values["window"]))
            if state.values["images"] != len(self.source):
                raise UserError(
                    f"the data has {len(self.source):,} images, the run was started on {state.values['images']:,}: "
                    "give the same data, or start a new run with --init"
                )
            self.trainer.load_state(state.values["step"], state.tensors, read_weights(previous / WEIGHTS))
        planned = state is None or state.values["planned"]
        if self.config.budget_seconds is not None and (state is None or not planned):
            self.trainer.total_steps = None
            self.planner = BudgetPlanner(self.config.budget_seconds, self.config.training.warmup, spent)
        self.spent = spent

    def _trainer(self, denoiser: Denoiser, device: torch.device) -> tuple[Trainer, list[str]]:
        precision = self.config.training.precision
        if precision == "auto":
            precision = "bf16" if supports_bf16(device) else "fp32"
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # accelerate takes the current one
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        if accelerator.device.type != device.type:
            raise UserError(
                f"this process has already trained on {accelerator.device.type}: use another one for {device.type}"
            )
        if accelerator.num_processes > 1:
            raise UserError("this version trains in one process: start it without accelerate launch or torchrun")
        trainer = Trainer(
            denoiser,
            build_objective(self.config),
            self.config.training,
            self.config.seed,
            accelerator,
            bf16=precision == "bf16",
        )
        size = sum(p.numel() for p in denoiser.parameters())
        height, width = self.config.model.image_size
        network = f"{self.config.model.network.kind} network"
        notes = [
            self.source.describe(),
            *self.source.report.lines(),
            f"{network}: {size:,} parameters, {height}x{width}x{self.config.model.channels} images",
            f"training on {device.type} in {precision}, {torch.get_num_threads()} threads, into {self.folder.path}",
        ]
        return trainer, notes

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def run(self) -> Path:
        trainer = self.trainer
        self.folder.write_config(self.config)
        if self.previous is None:
            torch.manual_seed(self.config.seed)  # for dropout, which draws from torch's own generator
        self.listeners = [*record_keepers(self.folder.path, trainer.step), *self.listeners]
        if trainer.step:
            self.notes.append(f"going on from step {trainer.step:,}")
        self.emit(Started(trainer.step, trainer.total_steps, tuple(self.notes)))
        self.window.start(self.spent)
        if self.planner is not None:
            self.planner.restart()
        try:
            with StopSignals() as stop:
                return self.loop(stop)
        finally:
            self.saver.close()  # what is being written is finished, whatever happens

    def loop(self, stop: StopSignals) -> Path:
        """The steps; returns the final checkpoint."""
        trainer = self.trainer
        for event in self._steps():
            self.emit(event)
            done = trainer.total_steps is not None and trainer.step >= trainer.total_steps
            if (line := self.window.add(event, last=done)) is not None:
                self.emit(line)
            if stop.received is not None and not done:
                self.save()
                self.tell_saved(wait=True)
                self.emit(Finished(trainer.step, False, self.window.elapsed()))
                raise Interrupted(stop.received)
            self.after_step(done)
            self.tell_saved(wait=done)
        self.emit(Finished(trainer.step, True, self.window.elapsed()))
        return self.saver.path(trainer.step)

    def _steps(self) -> Iterator[StepDone]:
        ahead = 0 if isinstance(self.source, ArraySource) else DECODERS
        training = self.config.training
        labels = self.config.model.num_classes is not None
        stream = BatchStream(self.source, training.batch_size, self.config.seed, training.flip, labels, ahead)
        for event in self.trainer.steps(stream.since(self.trainer.step)):
            if not math.isfinite(event.loss) or not math.isfinite(event.grad_norm):
                self.tell_saved(wait=True)
                raise UserError(
                    f"the loss or its gradient is not finite at step {event.step}: lower --training.lr; "
                    f"{last_good(self.folder)}"
                )
            yield event

    def after_step(self, done: bool) -> None:
        """Whatever is due after a step: the plan of a budget, a grid, a checkpoint."""
        step = self.trainer.step
        if self.planner is not None and self.planner.tick():
            self.plan(self.planner)
        elif step in self.preview_steps():
            self.preview()
        if done or step % self.config.checkpoint.every == 0:
            self.save()

    def plan(self, planner: BudgetPlanner) -> None:
        """Fix the number of steps and of sample grids, and keep the warm-up of the learning rate inside them."""
        preview, training = self.config.preview, self.config.training
        seconds, count = 0.0, preview.count
        if count:
            self.draw_preview(steps=1)  # the first call allocates
            before = planner.elapsed()
            self.draw_preview(steps=1)
            seconds = (planner.elapsed() - before) * min(preview.steps, self.config.model.schedule.num_steps)
            count = min(count, int(PREVIEW_SHARE * planner.budget / seconds))
        step = self.trainer.step
        total = planner.plan(step, seconds * count)
        # a shorter warm-up would not be that of the steps already taken: only where it would take most of the run
        warmup = training.warmup if training.warmup <= total // 5 else max(step, total // 10)
        self.config = replace(self.config.with_steps(total, warmup), preview=replace(preview, count=count))
        self.trainer.total_steps, self.trainer.config = total, self.config.training
        self.folder.write_config(self.config)
        self.planner = None
        self.emit(BudgetSet(step, total, count, planner.seconds_per_step, planner.budget))

    def preview_steps(self) -> set[int]:
        """The steps after which a grid is due: evenly spaced, the last of them the last step of all."""
        total, count = self.trainer.total_steps, self.config.preview.count
        return set() if total is None else {round(total * (i + 1) / count) for i in range(count)}

    def draw_preview(self, steps: int) -> np.ndarray:
        """Samples of the averaged weights, always from the same noise."""
        n, model = self.config.preview.n, self.config.model
        labels = None if model.num_classes is None else [i % model.num_classes for i in range(n)]
        steps = min(steps, model.schedule.num_steps)
        return sample(self.trainer.ema.model, n, steps=steps, seed=self.config.seed, label=labels)

    def preview(self) -> None:
        """Write a grid of samples."""
        images = self.draw_preview(self.config.preview.steps)
        path = self.folder.samples / f"{self.trainer.step:08d}.png"
        save_png(enlarge(make_grid(images)), path)
        self.emit(Previewed(self.trainer.step, path))

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of how it was made."""
        training, loss = self.config.training, self.window.loss()
        return {
            "data": self.source.name,
            "images": len(self.source),
            "step": self.trainer.step,
            "of_steps": self.trainer.total_steps,
            "batch_size": training.batch_size,
            "objective": training.objective,
            "optimizer": training.optimizer,
            "lr": training.lr,
            "ema_decay": training.ema_decay,
            "flip": training.flip,
            "seed": self.config.seed,
            "training_loss": None if loss is None else round(loss, 6),
            "license": self.config.license,
        }

    def save(self) -> None:
        """Have a checkpoint written."""
        step = self.trainer.step
        values = {
            "step": step,
            "planned": self.trainer.total_steps is not None,
            "elapsed": self.window.elapsed(),
            "images": len(self.source),
            "window": self.window.sums(),
        }
        state = TrainState(self.trainer.state_tensors(), values)
        self.saver.save(step, Snapshot.of(self.trainer.ema.model, state, self.about()))

    def tell_saved(self, wait: bool = False) -> None:
        """Report the checkpoints that have been written; `wait` for those that have not."""
        for step, path in self.saver.written(wait):
            self.emit(Saved(step, path))
