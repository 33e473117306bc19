"""`undye export MODEL --to diffusers|onnx|torch --out OUT`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from undye.checkpoint.program_info import check_target
from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """The flags of `undye export`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    to: Literal["diffusers", "onnx", "torch"] = "diffusers"
    """diffusers: a folder that DDPMPipeline and DDIMPipeline load and sample from. onnx, torch: the denoiser as a
    program (x_t, t[, label]) -> (x_0, eps[, ...]), an ONNX file or a torch.export archive, for use without undye."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """The new folder, or the new file: NAME.onnx for onnx, NAME.pt2 for torch."""
    set: Set = ()


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(
        ExportArgs, joined(args), "undye export", "Write a model in the form of another project, or as a program."
    )
    if not a.out:
        raise UserError("no --out: name a folder for the model, or a file for a program")
    if a.to != "diffusers":
        check_target(a.to, Path(a.out))
    if Path(a.out).exists():
        raise UserError(f"{a.out} exists already: choose another name")
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")

    from undye.checkpoint.export import export
    from undye.checkpoint.imported import Settings

    print(export(a.model, a.to, a.out, Settings.parse(a.set).values))
    return 0
