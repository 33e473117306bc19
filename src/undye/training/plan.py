"""What there is to do in a run's folder: begin, go on from a checkpoint, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from undye.checkpoint.load import load
from undye.checkpoint.native import load_train_state, read_train_values
from undye.data.hub import with_absolute_folder
from undye.data.names import HUB, HUB_STREAM, is_place
from undye.errors import UserError
from undye.files import remove, remove_temporaries
from undye.training.events import Finished, Listener, Notice, Started
from undye.training.folder import RunFolder, continue_run
from undye.training.listeners import JsonLog
from undye.training.posthoc import forget_after
from undye.training.report import REPORT, Report
from undye.training.run import RunConfig
from undye.training.saver import DAMAGED, forget_damaged, rotate


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
        remove_temporaries(folder.path)
        return Plan(config)
    # version 0.1.0 left the folders in names of hf: as they were
    stored = with_absolute_paths(folder.read_config())
    # how it is watched may change, but not which images are held out
    stored = replace(stored, watch=replace(config.watch, held_out=stored.watch.held_out))
    config = continue_run(stored, config)
    for part in (folder.path, folder.checkpoints, folder.samples, folder.ema):
        remove_temporaries(part)
    previous = newest_whole(folder, listeners)
    if previous is not None and is_finished(previous, config):
        for listener in listeners:
            listener(Started(config.training.steps, config.training.steps, (f"{previous} is the end of this run",)))
        finish_up(folder, config, previous)
        return Plan(config, finished=previous)
    forget_after(folder.ema, int(previous.name) if previous is not None else 0)
    return Plan(config, previous)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run, whatever folder it is resumed from."""
    data = config.data
    if data and is_place(data):
        data = str(Path(data).expanduser().absolute())
    elif data.startswith((HUB, HUB_STREAM)):
        data = with_absolute_folder(data)
    init = config.init and str(Path(config.init).expanduser().absolute())
    return replace(config, data=data, init=init)


def is_finished(checkpoint: Path, config: RunConfig) -> bool:
    """Whether a checkpoint is the last one of its run."""
    try:
        values = read_train_values(checkpoint)
    except UserError:
        return False
    return values["planned"] and int(checkpoint.name) >= config.training.steps


def finish_up(folder: RunFolder, config: RunConfig, last: Path) -> None:
    """What a run does after its last checkpoint, in case it was killed in between."""
    rotate(folder, config.checkpoint)
    end = Finished(int(last.name), True, read_train_values(last)["elapsed"])
    if not folder.log.exists() or '"completed": true' not in folder.log.read_text(encoding="utf-8", errors="replace"):
        JsonLog(folder.log, end.step)(end)
    report = folder.path / REPORT
    if not report.exists() or report.stat().st_mtime < folder.log.stat().st_mtime:
        Report(folder.path)(end)


def newest_whole(folder: RunFolder, listeners: Sequence[Listener]) -> Path | None:
    """The newest checkpoint that can be read; newer ones are moved aside, and that is said. None: there are none.

    Raises:
        UserError: if there are checkpoints, and none of them can be read; they stay as they are.
    """
    damaged: list[tuple[Path, UserError]] = []
    names = folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ()
    for path in sorted((p for p in names if p.name.isdigit()), key=lambda p: int(p.name), reverse=True):
        try:
            load(path)
            load_train_state(path)
        except UserError as error:
            damaged.append((path, error))
            continue
        for broken, error in damaged:
            aside = broken.with_name(f"{broken.name}{DAMAGED}")
            remove(aside)
            broken.rename(aside)
            for listener in listeners:
                listener(Notice(f"{error}; kept as {aside.name}, going on from the one before"))
        forget_damaged(folder, path)
        return path
    if damaged:
        raise UserError(
            f"no checkpoint in {folder.checkpoints} can be read, the newest because {damaged[0][1]}: bring one back, "
            "or start again with another --out"
        )
    return None
