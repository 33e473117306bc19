"""Checkpoints written in the background: the loop goes on while the disk works."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from undye.checkpoint.checksums import check
from undye.checkpoint.native import CONFIG, STATE_FILES, WEIGHTS, Snapshot, checkpoints, write
from undye.errors import UserError
from undye.files import remove, sync
from undye.training.folder import RunFolder
from undye.training.posthoc import SUFFIX, Averages, write_snapshot
from undye.training.run import CheckpointConfig

DAMAGED = ".damaged"
"""What the name of a checkpoint that could not be read ends in, once another one has taken its place."""


@dataclass
class Saver:
    """Writes a run's checkpoints one after another in a thread of its own, and removes those that are not kept.

    A checkpoint that could not be written ends the run: at the next step, with the reason and the last good one.

    Attributes:
        folder: the run's.
        config: which checkpoints stay.
    """

    folder: RunFolder
    config: CheckpointConfig
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    _pending: dict[int, Future[Path]] = field(default_factory=dict)
    _averages: dict[int, Future[Path]] = field(default_factory=dict)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder.checkpoints / str(step)

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Copy the state and have it written; waits while an earlier checkpoint is still being written.

        Raises:
            UserError: if an earlier one could not be written.
        """
        self._check_pending()
        self._pending[step] = self._pool.submit(
            self._write, self.path(step), snapshot.copied(), list(self._averages.values())
        )

    def save_averages(self, averages: Averages) -> None:
        """Have a snapshot for post-hoc EMA written, before any later checkpoint: so a resumed run misses none.

        Waits while an earlier one is still being written.

        Raises:
            UserError: if an earlier one could not be written.
        """
        self._check_averages(wait=True)
        path = self.folder.ema / f"{averages.step}{SUFFIX}"
        self._averages[averages.step] = self._pool.submit(write_snapshot, path, averages)

    def written(self, wait: bool = False) -> list[tuple[int, Path]]:
        """The checkpoints that were finished since the last call, as (step, folder); `wait`: all that were begun.

        Raises:
            UserError: if one could not be written.
        """
        self._check_averages(wait)
        done = [step for step, future in self._pending.items() if wait or future.done()]
        return [(step, self._result(step)) for step in done]

    def close(self) -> None:
        """Let the thread end, after what it is writing."""
        self._pool.shutdown(wait=True)

    def _check_averages(self, wait: bool) -> None:
        for step in [step for step, future in self._averages.items() if wait or future.done()]:
            try:
                self._averages.pop(step).result()
            except (OSError, UserError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise UserError(
                    f"the averages of step {step} could not be written into {self.folder.ema}: {reason}; "
                    f"{last_good(self.folder)}: make room or mend the disk, and go on with --resume"
                ) from None

    def _check_pending(self) -> None:
        for future in self._pending.values():
            if future.exception() is not None:  # waits
                self.written(wait=True)

    def _result(self, step: int) -> Path:
        future = self._pending.pop(step)
        try:
            return future.result()
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UserError(
                f"the checkpoint of step {step} could not be written into {self.folder.checkpoints}: {reason}; "
                f"{last_good(self.folder)}: make room or mend the disk, and go on with --resume"
            ) from None

    def _write(self, path: Path, snapshot: Snapshot, averages: list[Future[Path]]) -> Path:
        for earlier in averages:
            earlier.result()  # a run that goes on from here would miss them
        if self.folder.log.exists():
            sync(self.folder.log)  # or after a power cut the log may lack lines from before the checkpoint
        if path not in checkpoints(self.folder.path):
            remove(path)  # something of that name that is no checkpoint
            write(path, snapshot)
        rotate(self.folder, self.config)
        forget_damaged(self.folder, path)
        return path


def rotate(folder: RunFolder, config: CheckpointConfig) -> None:
    """Remove the checkpoints that are not to be kept."""
    for path in checkpoints(folder.path)[: -config.keep]:
        if not config.keep_every or int(path.name) % config.keep_every:
            remove(path)


def forget_damaged(folder: RunFolder, newest: Path) -> None:
    """Remove the checkpoints set aside as damaged that are no newer than `newest`, if that one is whole itself."""
    aside = [p for p in folder.checkpoints.glob(f"*{DAMAGED}") if p.stem.isdigit() and int(p.stem) <= int(newest.name)]
    if aside:
        with suppress(UserError):
            check(newest, (CONFIG, WEIGHTS, *STATE_FILES))
            for path in aside:
                remove(path)


def last_good(folder: RunFolder) -> str:
    """Words on where a run can go on from."""
    last = next(reversed(checkpoints(folder.path)), None)
    return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
