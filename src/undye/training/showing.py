"""What is drawn and measured of a model while it learns: sample grids, and bits/dim of held-out images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from undye.errors import UserError
from undye.pictures import enlarge, make_grid, save_png
from undye.sampling import sample
from undye.training.events import Event, Notice, Previewed
from undye.training.folder import RunFolder
from undye.training.held_out import HeldOut
from undye.training.listeners import measured_at
from undye.training.rounds import SignalFirst
from undye.training.run import RunConfig
from undye.training.trainer import Trainer
from undye.world import World


class Showing:
    """Grids and measurements of a trainer's averaged weights, between its steps; nothing of the run depends on them.

    A signal ends either at once; it is made up for when the run is resumed.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: RunConfig,
        held_out: HeldOut | None,
        folder: RunFolder,
        world: World,
        emit: Callable[[Event], None],
    ):
        """The trainer's, by the run's configuration.

        Args:
            trainer: the model, and the step it has come to.
            config: how often, and of what.
            held_out: the images to measure; None: none.
            folder: the run's, where the grids go.
            world: its processes.
            emit: told of each grid and measurement.
        """
        self.trainer, self.config, self.held_out = trainer, config, held_out
        self.folder, self.world, self.emit = folder, world, emit

    def give_way(self, *_: int) -> None:
        """Called within what takes long between two steps: a signal is more urgent, and `catch_up` does it later.

        Raises:
            SignalFirst: if there is one.
        """
        # with the weights spread over the processes they would have to agree first
        if not self.trainer.spread and (received := self.trainer.flag()):
            raise SignalFirst(received)

    def grid_is_due(self) -> bool:
        """Whether a grid is due after this step: they are evenly spaced, the last after the last step of all."""
        step, total, count = self.trainer.step, self.trainer.total_steps, self.config.preview.count
        return total is not None and step in {round(total * (i + 1) / count) for i in range(count)}

    def nll_is_due(self, done: bool) -> bool:
        """Whether the held-out images are to be measured after this step.

        Args:
            done: it is the last one.
        """
        return self.held_out is not None and (done or self.trainer.step % self.config.watch.nll_every == 0)

    def catch_up(self, measuring: bool) -> None:
        """Make up for what was due at the step that is resumed from: a signal saves at once, before such things.

        Args:
            measuring: the held-out images too.
        """
        step = self.trainer.step
        if not step:
            return
        log, path = self.folder.log, self.grid_path()
        if self.grid_is_due() and self.world.on_main(lambda: not path.exists()):
            self.draw_grid()
        if measuring and self.nll_is_due(False) and self.world.on_main(lambda: not measured_at(log, step)):
            self.measure()

    def grid_path(self) -> Path:
        """Where the grid of this step belongs."""
        return self.folder.samples / f"{self.trainer.step:08d}.png"

    def draw_grid(self) -> None:
        """Write a grid of samples."""
        if not self.takes_part():
            return
        try:
            images = self.draw(self.config.preview.steps)
        except SignalFirst:
            return
        if not self.world.is_main:
            return
        save_png(enlarge(make_grid(images)), self.grid_path())
        self.emit(Previewed(self.trainer.step, self.grid_path()))

    def draw(self, steps: int) -> np.ndarray:
        """Samples of the averaged weights, always from the same noise.

        Args:
            steps: to each, if the schedule has as many.
        """
        n, model = self.config.preview.n, self.config.model
        labels = None if model.num_classes is None else [i % model.num_classes for i in range(n)]
        steps = min(steps, model.schedule.num_steps)
        averaged, seed = self.trainer.ema.model, self.config.seed
        images = sample(averaged, n, steps=steps, seed=seed, label=labels, progress=self.give_way)
        self.spread_averages()
        return images

    def measure(self) -> None:
        """Measure the averaged weights on the held-out images."""
        if not self.takes_part():
            return
        assert self.held_out is not None
        try:
            event = self.held_out.measure(self.trainer.ema.model, self.trainer.step, self.give_way)
        except SignalFirst:
            return
        except UserError as error:
            event = Notice(f"step {self.trainer.step}: the held-out images could not be measured: {error}")
        self.spread_averages()
        self.emit(event)

    def grid_seconds(self, clock: Callable[[], float]) -> float:
        """About what a grid takes.

        Args:
            clock: the time, in seconds.

        Raises:
            SignalFirst: if a signal was received meanwhile.
        """
        self.draw(steps=1)  # the first call allocates
        before = clock()
        self.draw(steps=1)
        return (clock() - before) * min(self.config.preview.steps, self.config.model.schedule.num_steps)

    def nll_seconds(self) -> float:
        """About what a measurement takes; 0 where there are none."""
        if self.held_out is None:
            return 0.0
        seconds = self.held_out.seconds(self.trainer.ema.model)
        self.spread_averages()
        return seconds

    def takes_part(self) -> bool:
        """Whether this process has to compute: with the weights spread over the processes all of them have to."""
        return self.world.is_main or self.trainer.spread

    def spread_averages(self) -> None:
        """Spread the averages over the processes again (fsdp): only a backward pass would, and they have none."""
        if self.trainer.spread:
            self.trainer.ema.model.network.reshard()  # pyrefly: ignore
