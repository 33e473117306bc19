"""`undye import SOURCE --out DIR`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ImportArgs:
    """The flags of `undye import`."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A folder that diffusers wrote, or a file of weights (.pt, .safetensors): of OpenAI's improved-diffusion or
    guided-diffusion, the original models as pesser's pytorch_diffusion or ermongroup's ddim name them,
    denoising-diffusion-pytorch, w86763777's pytorch-ddpm, dome272's Diffusion-Models-pytorch."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """The new checkpoint folder."""
    set: Set = ()
    license: str = ""
    """Of the weights, for the model card: an SPDX name such as mit or cc-by-4.0; without it what the source says."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(ImportArgs, joined(args), "undye import", "Turn another project's model into a checkpoint of undye's.")
    if not a.out:
        raise UserError("no --out: name a folder for the checkpoint")
    if Path(a.out).exists():
        raise UserError(f"{a.out} exists already: choose another name")
    if not Path(a.source).exists():
        raise UserError(f"no model at {a.source}")

    from undye.checkpoint.imported import Settings
    from undye.checkpoint.load import read_foreign
    from undye.checkpoint.native import save

    found = read_foreign(Path(a.source), Settings.parse(a.set))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    save(
        Path(a.out),
        found.denoiser,
        about={"imported_from": found.kind, "source": Path(a.source).name, "license": a.license or found.license},
    )
    print(a.out)
    return 0
