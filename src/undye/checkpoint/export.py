"""`undye.export`: a model in the form of another project, or as a program."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from undye.checkpoint.card import UNKNOWN_LICENSE, read_license
from undye.checkpoint.diffusers import export_diffusers
from undye.checkpoint.load import is_foreign, load
from undye.checkpoint.native import find_checkpoint, read_about
from undye.checkpoint.programs import export_program
from undye.denoiser import Denoiser
from undye.errors import UserError


def export(
    model: Denoiser | str | PathLike[str],
    to: Literal["diffusers", "onnx", "torch"],
    out: str | PathLike[str],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model in the form of another project, or as a program: what `undye export` does.

    Args:
        model: a model, or whatever `undye.load` takes.
        to: "diffusers", a folder for DDPMPipeline and DDIMPipeline; "onnx", an ONNX file, or "torch", an archive of
            torch.export: the denoiser as a program (x_t, t[, label]) -> (x_0, eps[, var_fraction or log_var_offset]).
        out: the new folder, .onnx file or .pt2 file.
        settings: what another project's file does not say, as for `undye.load`.

    Returns:
        `out`.

    Raises:
        UserError: if `out` exists or has another suffix, if diffusers cannot express the model, if packages are missing
            that ONNX needs, or if the weights are more than an ONNX file holds.
    """
    if isinstance(model, Denoiser):
        if settings:
            raise UserError("settings are for other projects' files: this model says all of it itself")
        denoiser, license = model, None
    else:
        denoiser, license = load(model, settings=settings), _license(Path(model))
    if to == "diffusers":
        return export_diffusers(denoiser, Path(out), license or UNKNOWN_LICENSE)
    return export_program(denoiser, to, Path(out))


def _license(source: Path) -> str | None:
    """Of the weights, as the model's own card or configuration states it."""
    said = read_license(source) if is_foreign(source) else read_about(find_checkpoint(source)).get("license")
    return None if said is None else str(said)
