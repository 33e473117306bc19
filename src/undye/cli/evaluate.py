"""`undye eval MODEL --data ...`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.eval_options import MeasureOptions, given, run
from undye.cli.eval_table import table
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvalArgs(MeasureOptions):
    """The flags of `undye eval`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder or another project's model. Or images that were made elsewhere: a folder, an
    archive, an .npz / .npy file, or a named data set (its training images)."""
    card: bool = False
    """Also write the numbers into the model card (README.md) of the checkpoint."""
    neighbours: Annotated[str, tyro.conf.arg(metavar="NEAREST.png")] = ""
    """neighbours: also write the first samples, each with its nearest training images."""
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS.png")] = ""
    """memorization: also write the nearest samples, each beside its training image."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(EvalArgs, joined(args), "undye eval", "Measure how good a model is.")
    for picture in filter(None, (a.pairs, a.neighbours)):
        if Path(picture).suffix.lower() != ".png":
            raise UserError(f"cannot write a picture to {picture}: give a .png file")
    pictures = (
        ({"pairs": a.pairs or None}, ("memorization",)), ({"neighbours": a.neighbours or None}, ("neighbours",)),
    )  # fmt: skip
    arguments = given(a, [a.model], *pictures)
    if a.card:
        _check_card(a)

    from undye.metrics.evaluate import evaluate

    report, unfinished = run(a, partial(evaluate, a.model, a.data, a.metrics), arguments)
    if not report:
        return 0  # another process has it all
    print("\n".join(table(report)))
    for path in filter(None, (a.out, a.pairs, a.neighbours)):
        if Path(path).exists():
            print(path)
    if a.card:
        from undye.checkpoint.native import CARD, add_measurements, find_checkpoint
        from undye.metrics.record import measurements

        folder = find_checkpoint(report["model"]["checkpoint"])
        add_measurements(folder, measurements(report))
        print(folder / CARD)
    if unfinished is not None:
        raise unfinished
    return 0


def _check_card(a: EvalArgs) -> None:
    """Raise a UserError unless there will be a line for a card, and a card."""
    if a.weights != "ema":
        raise UserError("--card is about the EMA weights: leave --weights raw out, or --card")
    from undye.checkpoint.card import read_measurements
    from undye.checkpoint.load import is_foreign
    from undye.checkpoint.native import find_checkpoint
    from undye.metrics.subject import is_images

    if set(a.metrics) == {"rate-distortion"}:
        raise UserError("--card is for numbers, not for a curve: ask for nll or ode too, or leave it out")
    if is_images(a.model):
        raise UserError(f"--card is for models, and {a.model} holds images: leave it out")
    if is_foreign(Path(a.model)):
        raise UserError(f"--card is for undye's own checkpoints: `undye import {a.model} --out DIR` makes one")
    read_measurements(find_checkpoint(a.model))
