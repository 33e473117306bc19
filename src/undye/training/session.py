"""A run from its configuration to its final checkpoint: data, model, trainer, listeners and signals put together."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch

from undye.checkpoint.load import load
from undye.checkpoint.native import (
    WEIGHTS,
    Snapshot,
    TrainState,
    checkpoints,
    count_weights,
    load_train_state,
    read_train_values,
    read_weights,
)
from undye.data import NAMED_DATASETS
from undye.data.source import ArraySource
from undye.denoiser import Denoiser
from undye.device import supports_bf16
from undye.errors import SaidElsewhereError, UserError
from undye.files import remove, remove_temporaries, write_text
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
from undye.training.trainer import NonFiniteError, Trainer
from undye.training.window import Sums, Window
from undye.training.world import LOST, World

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
    world = World(device)
    folder = RunFolder(Path(out))
    config = with_absolute_paths(config)
    check_processes(config, world)
    told = list(listeners) if world.is_main else []
    with folder.locked() if world.is_main else nullcontext():
        plan = world.on_main(lambda: make_plan(config, folder, resume, told))
        if plan.finished is not None:
            return plan.finished
        return _Session(plan, folder, world, told).run()


@dataclass(frozen=True)
class Plan:
    """What there is to do. previous: the checkpoint to go on from; finished: the run's last one, if it is there."""

    config: RunConfig
    previous: Path | None = None
    finished: Path | None = None


def make_plan(config: RunConfig, folder: RunFolder, resume: bool, listeners: Sequence[Listener]) -> Plan:
    """Look at the run's folder, and tidy what an interrupted run left in it.

    Raises:
        UserError: if there is something in the way, or a run with other settings.
    """
    if not resume or not folder.exists():
        folder.check_new()
        return Plan(config)
    config = continue_run(folder.read_config(), config)
    for part in (folder.path, folder.checkpoints, folder.samples):
        remove_temporaries(part)
    found = checkpoints(folder.path)
    if found and is_finished(found[-1], config):
        for listener in listeners:
            listener(Started(config.training.steps, config.training.steps, (f"{found[-1]} is the end of this run",)))
        return Plan(config, finished=found[-1])
    return Plan(config, newest_whole(found, listeners))


def check_processes(config: RunConfig, world: World) -> None:
    """Make sure that a batch can be split as it is asked.

    Raises:
        UserError: if it cannot.
    """
    training = config.training
    parts = world.size * training.accumulate
    if training.batch_size % parts:
        ways = f"{world.size} processes" if world.size > 1 else "one process"
        raise UserError(
            f"a batch of {training.batch_size} cannot be split over {ways} in {training.accumulate} parts each: choose "
            f"--training.batch-size a multiple of {parts}"
        )
    if training.parallel == "fsdp" and training.optimizer == "muon" and world.size > 1:
        raise UserError("Muon needs whole weights: choose --training.optimizer adam with --training.parallel fsdp")


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

    def __init__(self, plan: Plan, folder: RunFolder, world: World, listeners: list[Listener]):
        self.folder, self.world, self.listeners, self.previous = folder, world, listeners, plan.previous
        config = plan.config
        self.source = load_data(config, plan.previous is None, lambda done, total: self.emit(Loading(done, total)))
        if plan.previous is not None:
            self.config, denoiser = config, from_config(config.model)
            check_shape(config.model, self.source)
        else:
            self.config, denoiser = build_model(config, self.source)
        self.window = Window()
        self.saver = Saver(folder, self.config.checkpoint)
        self.trainer, self.notes = self._trainer(denoiser)
        self.stream = self._stream()
        self.planner: BudgetPlanner | None = None
        spent = 0.0
        state = None
        if plan.previous is not None:
            state = load_train_state(plan.previous)
            spent = state.values["elapsed"]
            self.window = Window(Sums(**state.values["window"]))
            if state.values["images"] != len(self.source):
                raise UserError(
                    f"the data has {len(self.source):,} images, the run was started on {state.values['images']:,}: "
                    "give the same data, or start a new run with --init"
                )
            self.trainer.load_state(state.values["step"], state.tensors, read_weights(plan.previous / WEIGHTS))
            self.trainer.skipped = state.values.get("skipped", 0)
        planned = state is None or state.values["planned"]
        if self.config.budget_seconds is not None and (state is None or not planned):
            self.trainer.total_steps = None
            self.planner = BudgetPlanner(self.config.budget_seconds, self.config.training.warmup, spent)
        self.spent = spent

    def _trainer(self, denoiser: Denoiser) -> tuple[Trainer, list[str]]:
        config, world = self.config, self.world
        device, training = world.device, config.training
        precision = training.precision
        if precision == "auto":
            asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # what `accelerate launch` was told
            precision = asked if asked in ("bf16", "fp16") else "bf16" if supports_bf16(device) else "fp32"
        trainer = Trainer(denoiser, build_objective(config), training, config.seed, world, precision)
        size = sum(p.numel() for p in denoiser.parameters())
        height, width = config.model.image_size
        network = f"{config.model.network.kind} network"
        where = f"{world.size} processes on {device.type}" if world.size > 1 else device.type
        notes = [
            self.source.describe(),
            *self.source.report.lines(),
            f"{network}: {size:,} parameters, {height}x{width}x{config.model.channels} images",
            f"training on {where} in {precision}, {torch.get_num_threads()} threads, into {self.folder.path}",
        ]
        return trainer, notes

    def _stream(self) -> BatchStream:
        training = self.config.training
        return BatchStream(
            self.source,
            training.batch_size,
            self.config.seed,
            training.flip,
            labels=self.config.model.num_classes is not None,
            ahead=0 if isinstance(self.source, ArraySource) else DECODERS,
            share=self.world.share(training.batch_size),
        )

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def run(self) -> Path:
        trainer = self.trainer
        if self.world.is_main:
            check_disk(self.folder, self.config, trainer)
            self.folder.write_config(self.config)
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
        except (RuntimeError, MemoryError) as error:
            raise self.explained(error) from error
        finally:
            self.saver.close()  # what is being written is finished, whatever happens

    def loop(self, stop: StopSignals) -> Path:
        """The steps; returns the final checkpoint."""
        trainer = self.trainer
        trainer.flag = lambda: stop.received or 0
        for event in self._steps():
            self.emit(event)
            done = trainer.total_steps is not None and trainer.step >= trainer.total_steps
            if (line := self.window.add(event, last=done)) is not None:
                self.emit(line)
            # several processes stop together, at the step at which all of them have heard of it
            received = event.flag if self.world.size > 1 else trainer.flag()
            if received and not done:
                self.save()
                self.tell_saved(wait=True)
                self.world.wait()
                self.emit(Finished(trainer.step, False, self.window.elapsed()))
                raise Interrupted(Signals(received))
            self.after_step(done)
            self.tell_saved(wait=done)
        self.world.wait()
        self.emit(Finished(trainer.step, True, self.window.elapsed()))
        return self.saver.path(trainer.step)

    def _steps(self) -> Iterator[StepDone]:
        try:
            yield from self.trainer.steps(self.stream.since(self.trainer.step))
        except NonFiniteError as error:
            self.tell_saved(wait=True)
            if not self.world.is_main:
                raise SaidElsewhereError(str(error)) from None
            raise UserError(
                f"{error}: the batch is described in {self.describe_batch(error)}; lower --training.lr, look at these "
                f"images, or go on past such steps with --training.non-finite skip; {last_good(self.folder)}"
            ) from None

    def describe_batch(self, error: NonFiniteError) -> Path:
        """Write down the images, timesteps and losses of the step that could not be taken."""
        examples = np.arange(len(error.t))
        names = self.source.names(self.stream.indices(error.step - 1, examples))
        rows = [
            {"image": name, "t": int(t), "loss": repr(float(loss))}
            for name, t, loss in zip(names, error.t, error.losses, strict=True)
        ]
        path = self.folder.path / f"not-finite-{error.step}.json"
        write_text(path, json.dumps(rows, indent=2) + "\n")
        return path

    def explained(self, error: Exception) -> Exception:
        """An error of torch's as words to the user, if it is theirs to mend; else as it is."""
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in text or "alloc" in text:
            return UserError(
                f"out of memory in step {self.trainer.step + 1}: lower --training.batch-size, raise "
                f"--training.accumulate, or choose --model.network.checkpointing True; {last_good(self.folder)}"
            )
        if self.world.size > 1 and any(word in text for word in ("onnection", "gloo", "NCCL")):
            return UserError(f"{LOST}; {last_good(self.folder)}")
        return error

    def after_step(self, done: bool) -> None:
        """Whatever is due after a step: the plan of a budget, a grid, a checkpoint."""
        step = self.trainer.step
        if self.planner is not None and self.world.broadcast(self.planner.tick()):
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
        total, count = self.world.broadcast((planner.plan(step, seconds * count), count))
        # a shorter warm-up would not be that of the steps already taken: only where it would take most of the run
        warmup = training.warmup if training.warmup <= total // 5 else max(step, total // 10)
        self.config = replace(self.config.with_steps(total, warmup), preview=replace(preview, count=count))
        self.trainer.total_steps, self.trainer.config = total, self.config.training
        if self.world.is_main:
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
        if not self.world.is_main and not self.trainer.spread:
            return  # with the weights spread over the processes, all of them have to draw
        images = self.draw_preview(self.config.preview.steps)
        path = self.folder.samples / f"{self.trainer.step:08d}.png"
        if not self.world.is_main:
            return
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
        if not self.world.is_main and not self.trainer.spread:
            return
        trainer = self.trainer
        tensors, weights = trainer.state_tensors(), trainer.ema_weights()
        if not self.world.is_main:
            return
        values = {
            "step": trainer.step,
            "planned": trainer.total_steps is not None,
            "elapsed": self.window.elapsed(),
            "images": len(self.source),
            "skipped": trainer.skipped,
            "window": self.window.sums(),
        }
        config, size = self.config.model, count_weights(trainer.denoiser)
        self.saver.save(trainer.step, Snapshot(config, weights, size, TrainState(tensors, values), self.about()))

    def tell_saved(self, wait: bool = False) -> None:
        """Report the checkpoints that have been written; `wait` for those that have not."""
        for step, path in self.saver.written(wait):
            self.emit(Saved(step, path))


def check_disk(folder: RunFolder, config: RunConfig, trainer: Trainer) -> None:
    """Make sure that the checkpoints will find room.

    Raises:
        UserError: if they will not.
    """
    # the averages, the weights and up to two moments; one more than is kept while the next one is written
    needed = 4 * sum(p.numel() * p.element_size() for p in trainer.denoiser.parameters()) * (config.checkpoint.keep + 1)
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise UserError(
            f"{folder.path} has {free / 1e9:.1f} GB left, and checkpoints will need {needed / 1e9:.1f} GB: make room, "
            "or choose another --out"
        )
