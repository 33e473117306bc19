"""`undye ema RUN [--std S --out DIR]`."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from undye.cli.parse import parse
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.training.posthoc import Snapshots


@dataclass(frozen=True, kw_only=True)
class EmaArgs:
    """The flags of `undye ema`."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A folder of a run that was trained with --training.ema-stds."""
    std: float | None = None
    """Length of the average: the standard deviation of its weights over the steps, in parts of the run. Without it the
    command lists the snapshots, and the lengths that can be made from them."""
    step: int | None = None
    """At which the average is, one of the snapshots'; without it the last."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """The new checkpoint folder; without it one beside the run, such as RUN-ema-0.05."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Make a model with averaged weights of another length, after training (post-hoc EMA)."
    a = parse(EmaArgs, args, "undye ema", about)
    if a.std is None and a.out:
        raise UserError("no --std: give the average's length, such as 0.05")
    step = "" if a.step is None else f"-{a.step}"
    out = a.out or f"{a.run.rstrip('/')}-ema-{a.std:g}{step}" if a.std is not None else ""
    if out and Path(out).exists():
        raise UserError(f"{out} exists already: choose another name with --out")

    from undye.checkpoint.native import save
    from undye.training.posthoc import Snapshots, synthesise

    snapshots = Snapshots.of(a.run, a.step)
    if a.std is None:
        print("\n".join(listing(snapshots)))
        return 0
    denoiser, facts = synthesise(snapshots, a.std)
    print(save(out, denoiser, about=facts))
    return 0


def listing(snapshots: "Snapshots") -> list[str]:
    """What the terminal shows of a run's snapshots."""
    steps = [int(path.stem) for path in snapshots.paths]
    gaps = sorted({b - a for a, b in pairwise(steps)})
    apart = f", {gaps[0]:,}" + (f" to {gaps[-1]:,}" if gaps[1:] else "") + " apart" if gaps else ""
    size = sum(path.stat().st_size for path in snapshots.paths)
    return [
        f"averages   std {', '.join(f'{std:g}' for std in snapshots.stds)}",
        f"snapshots  {len(steps):,}: steps {steps[0]:,} to {steps[-1]:,}{apart}, {size / 1e6:,.1f} MB",
        f"can make   std {snapshots.ranges()}, at step {steps[-1]:,}",
    ]
