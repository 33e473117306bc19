"""`undye.load`: a model from whatever holds one: undye's own folders, or another project's files."""

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch

from undye.checkpoint import diffusers, dome272, lucidrains, native, openai, original, w86763777
from undye.checkpoint.imported import Imported, ImportNote, Settings, read_pickle
from undye.checkpoint.program_info import is_program
from undye.denoiser import Denoiser
from undye.errors import UserError


class Reader(Protocol):
    """A module that reads one project's files."""

    def knows(self, content: Any) -> bool:
        """Whether what a file holds looks like this project's, by its keys."""
        ...

    def read(self, path: Path, content: Any, settings: Settings) -> Imported:
        """The model in it."""
        ...


FILES: Mapping[str, Reader] = {
    "openai": openai,
    "original": original,
    "w86763777": w86763777,
    "lucidrains": lucidrains,
    "dome272": dome272,
}
"""Whose .pt files can be read. No file looks like two of them.

openai is improved-diffusion and guided-diffusion; original the models of Ho et al. 2020 under the names of
pesser/pytorch_diffusion, which ermongroup/ddim uses too; w86763777 is pytorch-ddpm; lucidrains is
denoising-diffusion-pytorch; dome272 is Diffusion-Models-pytorch.
"""


def load(
    source: str | PathLike[str],
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    weights: native.WeightsName = "ema",
) -> Denoiser:
    """A trained model, in eval mode.

    Args:
        source: a run folder (its newest checkpoint), a checkpoint folder, a folder that diffusers wrote, or a .pt file
            of one of the projects in `FILES`.
        device: where to put it.
        settings: what another project's file does not say, see `Settings`: as `undye import --set KEY=VALUE`.
        weights: of undye's own: "ema", the averages, or "raw", what the optimiser had, where there is a training state.

    Warns:
        ImportNote: for each thing that another project's file does not say, and what was taken instead.

    Raises:
        UserError: if there is no model there, or its files are damaged or say what undye cannot do.
    """
    source = Path(source)
    if not is_foreign(source):
        if settings:
            raise UserError("settings are for other projects' models: undye's own say all of it themselves")
        return native.load(source, device, weights)
    if weights != "ema":
        raise UserError(f"{source} is another project's model: raw weights are for undye's own checkpoints")
    found = read_foreign(source, Settings.of(settings or {}))
    for note in found.notes:
        warnings.warn(note, ImportNote, stacklevel=2)
    return found.denoiser.to(device)


def is_foreign(source: Path) -> bool:
    """Whether something is not of undye's own making: a file, or a folder of diffusers'."""
    return source.is_file() or (source.is_dir() and diffusers.is_diffusers(source))


def read_foreign(source: Path, settings: Settings) -> Imported:
    """A model of another project, with notes on what was not said.

    Raises:
        UserError: for what cannot be read, and for settings that nobody asked for.
    """
    if source.is_dir() and diffusers.is_diffusers(source):
        found = diffusers.read_diffusers(source, settings)
    elif source.is_file():
        found = _read_file(source, settings)
    elif source.exists():
        raise UserError(f"{source} holds no model of another project: give a folder of diffusers or a .pt file")
    else:
        raise UserError(f"no model at {source}")
    settings.check_used()
    return found


def _read_file(path: Path, settings: Settings) -> Imported:
    """A model from a file of torch.save: the first reader that knows its keys has it."""
    if is_program(path):
        raise UserError(
            f"{path} is a program for other runtimes, which undye writes but does not read back: give the model it was "
            "made from"
        )
    content = read_pickle(path)
    for reader in FILES.values():
        if reader.knows(content):
            return reader.read(path, content, settings)
    keys = [k for k in content if isinstance(k, str)] if isinstance(content, dict) else []
    has = f"its first keys are {', '.join(map(repr, keys[:3]))}" if keys else "it holds no named tensors"
    raise UserError(f"{path} is not a model that undye knows ({has}): it reads those of {', '.join(FILES)}")
