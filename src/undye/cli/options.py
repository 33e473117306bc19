"""Flags that every command has."""

from typing import Annotated

import tyro

Device = Annotated[str, tyro.conf.arg(metavar="cpu|cuda|mps", help="Where to compute; without it the best there is.")]
Threads = Annotated[int, tyro.conf.arg(metavar="N", help="CPU threads; without it one per core.")]
