"""`undye export MODEL --to diffusers --out DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from undye.cli.parse import parse
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """The flags of `undye export`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    to: Literal["diffusers"] = "diffusers"
    """diffusers: a folder that DDPMPipeline and DDIMPipeline load and sample from."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """The new folder."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(ExportArgs, args, "undye export", "Write a model in the form of another project.")
    if not a.out:
        raise UserError("no --out: name a folder for the model")
    if Path(a.out).exists():
        raise UserError(f"{a.out} exists already: choose another name")
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")

    from undye.checkpoint.diffusers import export_diffusers
    from undye.checkpoint.load import load

    print(export_diffusers(load(a.model), Path(a.out)))
    return 0
