"""Mistakes that can be found before the first step."""

import shutil
from pathlib import Path

from undye.data.names import is_place
from undye.data.report import show_path
from undye.errors import UserError
from undye.training.folder import RunFolder
from undye.training.run import RunConfig
from undye.training.trainer import Trainer
from undye.world import World


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


def check_names(config: RunConfig, out: Path) -> None:
    """Make sure that the run's folder can be written down, and is not among its own images.

    Raises:
        UserError: if it cannot, or is.
    """
    for name in (config.data, config.init or "", str(out)):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{show_path(name)!r} is no name in UTF-8, and cannot be stored: rename it") from None
    data = Path(config.data)
    if is_place(config.data) and data.is_dir() and out.absolute().resolve().is_relative_to(data.resolve()):
        raise UserError(f"{out} lies in the data's own folder, so its sample grids would be trained on: choose another")


def check_disk(folder: RunFolder, config: RunConfig, trainer: Trainer) -> None:
    """Make sure that the checkpoints will find room.

    Raises:
        UserError: if they will not.
    """
    # the averages, the weights and up to two moments; one more than is kept while the next one is written
    size = sum(p.numel() * p.element_size() for p in trainer.denoiser.parameters())
    training, lengths = config.training, len(config.training.ema_stds)
    needed = (4 + 2 * lengths) * size * (config.checkpoint.keep + 1)  # those for post-hoc EMA are in float64
    if trainer.total_steps is not None:
        needed += lengths * size * ((trainer.total_steps - trainer.step) // training.ema_every + 1)
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise UserError(
            f"{folder.path} has {free / 1e9:.1f} GB left, and checkpoints will need {needed / 1e9:.1f} GB: make room, "
            "or choose another --out"
        )
