"""`undye.export`: a model in the form of another project, or as a program."""

from os import PathLike
from pathlib import Path
from typing import Literal

from undye.checkpoint.card import UNKNOWN_LICENSE
from undye.checkpoint.diffusers import export_diffusers
from undye.checkpoint.load import is_foreign, load
from undye.checkpoint.native import find_checkpoint, read_about
from undye.checkpoint.programs import export_program
from undye.denoiser import Denoiser


def export(
    model: Denoiser | str | PathLike[str], to: Literal["diffusers", "onnx", "torch"], out: str | PathLike[str]
) -> Path:
    """Write a model in the form of another project, or as a program: what `undye export` does.

    Args:
        model: a model, or whatever `undye.load` takes.
        to: "diffusers", a folder for DDPMPipeline and DDIMPipeline; "onnx", an ONNX file, or "torch", an archive of
            torch.export: the denoiser as a program (x_t, t[, label]) -> (x_0, eps[, var_fraction or log_var_offset]).
        out: the new folder, .onnx file or .pt2 file.

    Returns:
        `out`.

    Raises:
        UserError: if `out` exists or has another suffix, if diffusers cannot express the model, if packages are missing
            that ONNX needs, or if the weights are more than an ONNX file holds.
    """
    denoiser = model if isinstance(model, Denoiser) else load(model)
    if to == "diffusers":
        own = not isinstance(model, Denoiser) and not is_foreign(Path(model))
        about = read_about(find_checkpoint(Path(model))) if own else {}
        return export_diffusers(denoiser, Path(out), str(about.get("license") or UNKNOWN_LICENSE))
    return export_program(denoiser, to, Path(out))
