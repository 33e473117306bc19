"""`undye compare A B ... --data ...`."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from undye.cli.compare_table import compare_table
from undye.cli.eval_options import MeasureOptions, Metrics, given, run
from undye.cli.parse import parse
from undye.cli.settings import joined


@dataclass(frozen=True, kw_only=True)
class CompareArgs(MeasureOptions):
    """The flags of `undye compare`."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL MODEL ...")] = ()
    """Models or images, as `undye eval` takes them: run folders, checkpoints, folders, .npz files, named data sets."""
    metrics: Metrics = ("fid", "kid")


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(CompareArgs, joined(args), "undye compare", "Measure several models or folders of images, and compare.")
    arguments = given(a, a.models)

    from undye.metrics.compare import compare

    report, unfinished = run(a, partial(compare, a.models, a.data, a.metrics), arguments)
    if not report:
        return 0  # another process has it all
    print("\n".join(compare_table(report)))
    if a.out:
        print(a.out)
    if unfinished is not None:
        raise unfinished
    return 0
