"""Flags that every command has."""

from typing import Annotated, Literal

import tyro

Device = Annotated[str, tyro.conf.arg(metavar="cpu|cuda|mps", help="Where to compute; without it the best there is.")]
WeightsName = Literal["ema", "raw"]
Weights = Annotated[
    WeightsName,
    tyro.conf.arg(help="The averaged weights, or what the optimiser had (undye's own checkpoints of a run)."),
]
Threads = Annotated[int, tyro.conf.arg(metavar="N", help="CPU threads; without it one per core.")]
