"""A run from its configuration to its final checkpoint: data, model, trainer, listeners and signals put together."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from undye.checkpoint.native import (
    WEIGHTS,
    Snapshot,
    TrainState,
    count_weights,
    load_train_state,
    read_weights,
)
from undye.data.hub_stream import StreamError
from undye.data.stream import StreamSource
from undye.denoiser import Denoiser
from undye.device import supports_bf16
from undye.errors import SaidElsewhereError, UserError
from undye.training.batches import BatchStream
from undye.training.budget import BudgetPlanner
from undye.training.checks import check_disk, check_names, check_processes
from undye.training.events import (
    BudgetSet,
    Event,
    Failed,
    Finished,
    Listener,
    Loading,
    Notice,
    Saved,
    Started,
    StepDone,
)
from undye.training.folder import RunFolder
from undye.training.held_out import HeldOut, in_memory, split
from undye.training.listeners import record_keepers
from undye.training.mishaps import explained, lost, not_finite
from undye.training.plan import Plan, make_plan, with_absolute_paths
from undye.training.posthoc import Averages
from undye.training.precision import Precision
from undye.training.rounds import Rounds, SignalFirst
from undye.training.run import RunConfig
from undye.training.saver import Saver, last_good
from undye.training.setup import (
    build_model,
    build_objective,
    check_shape,
    fingerprint,
    from_config,
    license_of,
    load_data,
)
from undye.training.showing import Showing
from undye.training.signals import StopSignals
from undye.training.stream_batches import StreamBatches
from undye.training.trackers import check_trackers
from undye.training.trainer import NonFiniteError, Trainer
from undye.training.window import Sums, Window
from undye.world import LOST, World

PREVIEW_SHARE = 0.1
"""The most of a time budget that goes into sample grids."""
MAX_WORKERS = 8
"""Threads that decode images as they are needed, unless another number is asked for."""


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
    world.agreed(lambda: check_trackers(config))
    folder = RunFolder(Path(out))
    config = with_absolute_paths(config)
    world.agreed(lambda: check_processes(config, world))
    world.agreed(lambda: check_names(config, folder.path))
    told = list(listeners) if world.is_main else []
    with ExitStack() as held:

        def begin() -> Plan:
            held.enter_context(folder.locked())
            return make_plan(config, folder, resume, told)

        plan = world.on_main(begin)
        if plan.finished is not None:
            return plan.finished
        session = _Session(plan, folder, world, told)
        try:
            return session.run()
        except Exception as error:
            if not isinstance(error, Interrupted):
                session.tell_failed(error)
            raise


class _Session:
    """One process's part of a run, from start or resumption to the end or a signal."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, listeners: list[Listener]):
        self.folder, self.world, self.listeners, self.previous = folder, world, listeners, plan.previous
        config = plan.config
        # what may be wrong is found before the processes exchange anything else, and told once
        new = plan.previous is None
        whole = world.agreed(lambda: load_data(config, new, lambda done, total: self.emit(Loading(done, total))))
        self.source, held = split(whole, config.watch.held_out)
        self.fingerprint = fingerprint(self.source)
        self.config, denoiser = world.agreed(lambda: self._model(config, new))
        held_out = world.agreed(lambda: HeldOut.load(self.config, self.source, held))
        state = world.agreed(lambda: self._state(plan.previous))
        self.window = Window(self.config.model.schedule.num_steps)
        self.saver = Saver(folder, self.config.checkpoint)
        self.trainer, self.notes = self._trainer(denoiser)
        # several processes hear a signal at the next step; of a stream that may be a long time
        streams = self.world.size > 1 and isinstance(self.source, StreamSource)
        self.rounds = Rounds(self.world, lambda: self.trainer.flag()) if streams else None
        self.showing = Showing(self.trainer, self.config, held_out, folder, world, self.emit)
        self.stream = self._stream()
        self.planner: BudgetPlanner | None = None
        spent = 0.0
        if plan.previous is not None and state is not None:
            spent = state.values["elapsed"]
            self.window = Window(self.window.num_steps, Sums(**state.values["window"]))
            self.trainer.load_state(state.values["step"], state.tensors, read_weights(plan.previous / WEIGHTS))
            self.trainer.skipped = state.values.get("skipped", 0)
            self.trainer.skips_in_a_row = state.values.get("skips_in_a_row", 0)
        planned = state is None or state.values["planned"]
        if self.config.budget_seconds is not None and (state is None or not planned):
            self.trainer.total_steps = None
            self.planner = BudgetPlanner(self.config.budget_seconds, self.config.training.warmup, spent)
        self.spent = spent
        self.saved = self.trainer.step  # the step of the newest checkpoint, and 0, of which there is none

    def _model(self, config: RunConfig, new: bool) -> tuple[RunConfig, Denoiser]:
        if new:
            # asked for once: the model that it started from may be gone when the run is saved
            return build_model(replace(config, license=license_of(config)), self.source)
        check_shape(config.model, self.source)
        return config, from_config(config.model)

    def _state(self, previous: Path | None) -> TrainState | None:
        if previous is None:
            return None
        state = load_train_state(previous)
        if isinstance(self.source, StreamSource):
            counts = state.values.get("rows", ())
            if len(counts) == len(self.source.counts):  # else the fingerprint differs too
                self.source.learn(counts)
        elif state.values["images"] != len(self.source):
            raise UserError(
                f"the data has {len(self.source):,} images, the run was started on {state.values['images']:,}: "
                "give the same data, or start a new run with --init"
            )
        if state.values.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise UserError(
                f"{self.source.name} holds other images, or in another order, than those the run was started on: give "
                "the same data, or start a new run with --init"
            )
        return state

    def _trainer(self, denoiser: Denoiser) -> tuple[Trainer, list[str]]:
        config, world = self.config, self.world
        device, training = world.device, config.training
        precision = training.precision
        if precision == "auto":
            asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # what `accelerate launch` was told
            precision = asked if asked in ("bf16", "fp16") else "bf16" if supports_bf16(device) else "fp32"
        objective, _ = world.agreed(lambda: (build_objective(config), Precision(precision, device)))
        trainer = Trainer(denoiser, objective, training, config.seed, world, precision)
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
        training, source = self.config.training, self.source
        settings: dict[str, Any] = {
            "batch_size": training.batch_size,
            "seed": self.config.seed,
            "flip": training.flip,
            "labels": self.config.model.num_classes is not None,
            "ahead": training.prefetch,
            "share": self.world.share(training.batch_size),
            "crop": training.crop,
            "balance": training.balance,
            "workers": self._workers(),
            "pin": self.world.device.type == "cuda",
            "tell": self._tell_bad,
        }
        if isinstance(source, StreamSource):
            waiting = self.showing.give_way if self.rounds is None else self.rounds.waiting
            return StreamBatches(source=source, **settings, block=training.shuffle_block, waiting=waiting)
        return BatchStream(source=source, **settings)

    def _tell_bad(self, line: str) -> None:
        """Name an image that turned out to be bad; only the main process keeps a log."""
        if self.world.is_main:
            self.emit(Notice(line))
        else:
            print(f"undye: process {self.world.rank}: {line}", file=sys.stderr, flush=True)

    def _workers(self) -> int:
        """As many threads as asked; else enough to decode, and none where a thread would only cost time."""
        if (asked := self.config.training.workers) is not None:
            return asked
        if in_memory(self.source):
            return 1 if self.world.device.type == "cuda" else 0
        return min(MAX_WORKERS, os.cpu_count() or 1)

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def run(self) -> Path:
        trainer = self.trainer
        if self.world.is_main:
            check_disk(self.folder, self.config, trainer)
            self.folder.write_config(self.config)
            keepers = record_keepers(self.folder.path, self.config, trainer.step, self.emit)
            self.listeners = [*keepers, *self.listeners]
        if trainer.step:
            self.notes.append(f"going on from step {trainer.step:,}")
        self.emit(Started(trainer.step, trainer.total_steps, tuple(self.notes)))
        self.window.start(self.spent)
        self.showing.catch_up(measuring=self.planner is None)
        if self.planner is not None:
            self.planner.restart()
        try:
            with StopSignals() as stop:
                return self.loop(stop)
        except (RuntimeError, MemoryError, OSError) as error:
            raise explained(error, self.trainer.step, self.world, self.folder) from error
        except UserError as error:
            if str(error).startswith(LOST):
                raise lost(self.folder) from error
            raise
        finally:
            self.saver.close()  # what is being written is finished, whatever happens

    def loop(self, stop: StopSignals) -> Path:
        """The steps; returns the final checkpoint."""
        trainer = self.trainer
        trainer.flag = lambda: stop.received or 0
        try:
            return self._loop()
        except SignalFirst as signal:  # while images were waited for, between two steps
            raise self.stopped(signal.received) from None

    def _loop(self) -> Path:
        trainer = self.trainer
        for event in self._steps():
            self.emit(event)
            done = trainer.total_steps is not None and trainer.step >= trainer.total_steps
            for line in self.window.add(event, last=done):
                self.emit(line)
            self.save_averages(done)  # now: a signal ends the run before `after_step`
            # several processes stop together, at the step at which all of them have heard of it
            received = event.flag if self.world.size > 1 else trainer.flag()
            if received and not done:
                raise self.stopped(received)
            self.after_step(done)
            self.tell_saved(wait=done)
        self.world.wait()
        self.emit(Finished(trainer.step, True, self.window.elapsed()))
        return self.saver.path(trainer.step)

    def stopped(self, received: int) -> Interrupted:
        """Save what was not saved yet, and end the run for a signal."""
        if self.trainer.step != self.saved:
            self.save()
        self.tell_saved(wait=True)
        self.world.wait()
        self.emit(Finished(self.trainer.step, False, self.window.elapsed()))
        return Interrupted(Signals(received))

    def _steps(self) -> Iterator[StepDone]:
        try:
            batches = self.stream.since(self.trainer.step)
            yield from self.trainer.steps(batches if self.rounds is None else self.rounds.batches(batches))
        except NonFiniteError as error:
            self.tell_saved(wait=True)
            if not self.world.is_main:
                raise SaidElsewhereError(str(error)) from None
            raise not_finite(error, self.stream.names(error.step - 1), self.folder) from None
        except StreamError as error:
            self.tell_saved(wait=True)
            raise UserError(
                f"{error}; this was needed for step {self.trainer.step + 1}: {last_good(self.folder)}, go on with "
                "--resume"
            ) from None

    def after_step(self, done: bool) -> None:
        """Whatever is due after a step: the plan of a budget, a grid, a checkpoint."""
        step = self.trainer.step
        if self.planner is not None and self.world.broadcast(self.planner.tick()):
            with suppress(SignalFirst):  # then the plan is made after the run is resumed
                self.plan(self.planner)
        elif self.showing.grid_is_due():
            self.showing.draw_grid()
        if self.planner is None and self.showing.nll_is_due(done):  # not while a budget is being timed
            self.showing.measure()
        if done or step % self.config.checkpoint.every == 0:
            self.save()

    def plan(self, planner: BudgetPlanner) -> None:
        """Fix the number of steps and of sample grids, and keep the warm-up of the learning rate inside them."""
        preview, training = self.config.preview, self.config.training
        seconds, count = 0.0, preview.count
        if count:
            seconds = self.showing.grid_seconds(planner.elapsed)
            count = min(count, int(PREVIEW_SHARE * planner.budget / seconds))
        step = self.trainer.step
        total = planner.plan(step, seconds * count)
        if seconds := self.showing.nll_seconds():
            seconds /= self.config.watch.nll_every
            total = step + max(1, int((total - step) / (1 + seconds / planner.seconds_per_step)))
        total, count = self.world.broadcast((total, count))
        # a shorter warm-up would not be that of the steps already taken: only where it would take most of the run
        warmup = training.warmup if training.warmup <= total // 5 else max(step, total // 10)
        self.config = replace(self.config.with_steps(total, warmup), preview=replace(preview, count=count))
        self.trainer.total_steps, self.trainer.config = total, self.config.training
        self.showing.config = self.config
        if self.world.is_main:
            self.folder.write_config(self.config)
        self.planner = None
        self.emit(BudgetSet(step, total, count, planner.seconds_per_step, planner.budget))

    def images(self) -> int | None:
        """The number of images; of a stream, once it is known."""
        if isinstance(self.source, StreamSource):
            return self.source.total
        return len(self.source)

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of how it was made."""
        training, loss = self.config.training, self.window.loss()
        return {
            "data": self.source.name,
            "images": self.images(),
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
            "init": self.config.init and Path(self.config.init).name,
            "license": self.config.license,
        }

    def save(self) -> None:
        """Have a checkpoint written."""
        if not self.world.is_main and not self.trainer.spread:
            return
        trainer = self.trainer
        self.saved = trainer.step
        tensors, weights = trainer.state_tensors(), trainer.ema_weights()
        if not self.world.is_main:
            return
        values = {
            "step": trainer.step,
            "planned": trainer.total_steps is not None,
            "elapsed": self.window.elapsed(),
            "images": self.images(),
            "fingerprint": self.fingerprint,
            **({"rows": list(self.source.counts)} if isinstance(self.source, StreamSource) else {}),
            "skipped": trainer.skipped,
            "skips_in_a_row": trainer.skips_in_a_row,
            "window": self.window.sums(),
        }
        config, size = self.config.model, count_weights(trainer.denoiser)
        self.tell_saved(wait=True)  # so that of all checkpoints only the newest may lack its line in the log
        self.saver.save(trainer.step, Snapshot(config, weights, size, TrainState(tensors, values), self.about()))

    def save_averages(self, done: bool) -> None:
        """Have a snapshot for post-hoc EMA written, where one is due."""
        trainer = self.trainer
        due = done or trainer.step % self.config.training.ema_every == 0
        if trainer.power_ema is None or not due or not (self.world.is_main or trainer.spread):
            return
        networks = trainer.power_ema.network_states(trainer.denoiser.network)
        if self.world.is_main:
            apart = ("ema_decay", "training_loss")  # of the paper's average, and of its checkpoint
            about = {k: v for k, v in self.about().items() if k not in apart}
            self.saver.save_averages(Averages(trainer.step, networks, self.config.model, about))

    def tell_failed(self, error: Exception) -> None:
        """Let every listener know that the run has ended, whatever state they are in."""
        for listener in self.listeners:
            with suppress(Exception):
                listener(Failed(self.trainer.step, " ".join(str(error).split())))

    def tell_saved(self, wait: bool = False) -> None:
        """Report the checkpoints that have been written; `wait` for those that have not."""
        for step, path in self.saver.written(wait):
            self.emit(Saved(step, path))
