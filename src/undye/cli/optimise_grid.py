"""`undye optimise-grid MODEL --steps 5 10`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.options import Device, Threads
from undye.cli.parse import parse
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimiseGridArgs:
    """The flags of `undye optimise-grid`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint folder; the grids go into it."""
    steps: tuple[int, ...] = (5, 8, 10, 15, 20)
    """The numbers of network calls to make a grid for."""
    images: int = 32
    """How many images the times are fitted to."""
    held_out: int = 64
    """How many others the result is measured on."""
    teacher_steps: int = 100
    """Network calls of the many-step solution that is the aim."""
    iterations: int = 6
    """Of the fit, at most."""
    seed: int = 0
    """Names the noise."""
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Find the times at which few steps come nearest to many, and keep them in the model."
    a = parse(OptimiseGridArgs, args, "undye optimise-grid", about)
    if not a.steps:
        raise UserError("no --steps: give the numbers of network calls, such as --steps 5 10")

    from undye.checkpoint.grids import add_grids
    from undye.checkpoint.load import is_foreign
    from undye.checkpoint.native import find_checkpoint, load
    from undye.device import pick_device, set_threads
    from undye.samplers.optimise import Settings, check_steps, optimise_grid

    settings = Settings(
        images=a.images, held_out=a.held_out, teacher_steps=a.teacher_steps, iterations=a.iterations, seed=a.seed
    )
    if is_foreign(Path(a.model)):
        raise UserError(f"{a.model} is another project's model: make it undye's own with undye import first")
    set_threads(a.threads or None)
    folder = find_checkpoint(a.model)
    denoiser = load(folder, pick_device(a.device or None))
    for steps in a.steps:
        check_steps(denoiser.schedule, steps, settings)
    for steps in sorted(set(a.steps)):
        grid = optimise_grid(denoiser, steps, settings, lambda line: print(line, flush=True))
        add_grids(folder, {steps: grid}, denoiser.schedule.num_steps)
        print(f"{steps} steps: {grid.best_known / grid.distance:.2f} times nearer than {grid.best_known_name}, stored")
    print(folder)
    return 0
