"""`undye.load`: a model from whatever holds one: undye's own folders, or another project's files."""

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from undye.checkpoint import diffusers, dome272, lucidrains, native, openai, original, w86763777
from undye.checkpoint.content import read_content
from undye.checkpoint.imported import Imported, ImportNote, Settings
from undye.checkpoint.program_info import is_program
from undye.denoiser import Denoiser
from undye.errors import UserError


@runtime_checkable
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
"""Whose files of weights can be read, of torch.save or safetensors. No file looks like two of them.

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
        source: a run folder (its newest checkpoint), a checkpoint folder, a folder that diffusers wrote, or a file
            (.pt, .safetensors, whatever its name) of one of the projects in `FILES`.
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
        raise UserError(f"{source} holds no model of another project: give a folder of diffusers or a file of weights")
    else:
        raise UserError(f"no model at {source}")
    settings.check_used()
    return found


def _read_file(path: Path, settings: Settings) -> Imported:
    """A model from a file of weights: the first reader that knows its keys has it."""
    if is_program(path):
        raise UserError(
            f"{path} is a program for other runtimes, which undye writes but does not read back: give the model it was "
            "made from"
        )
    content = read_content(path)
    reader = _reader_of(content)
    if reader is None and isinstance(content, dict):
        content = _part(path, content, settings)
        reader = _reader_of(content)
    if reader is not None:
        return reader.read(path, content, settings)
    if diffusers.is_network(content):
        raise UserError(f"{path} is the weights of a diffusers network alone: give the folder with its config.json")
    keys = [k for k in content if isinstance(k, str)] if isinstance(content, dict) else []
    has = f"its first keys are {', '.join(repr(k)[:80] for k in keys[:3])}" if keys else "it holds no named tensors"
    raise UserError(f"{path} is not a model that undye knows ({has}): it reads those of {', '.join(FILES)}")


def _reader_of(content: Any) -> Reader | None:
    return next((reader for reader in FILES.values() if reader.knows(content)), None)


def _part(path: Path, content: dict[Any, Any], settings: Settings) -> Any:
    """What a training loop's own container has of a model, {"state_dict": ..., "epoch": 3}; else the container.

    Of two the averaged one is taken, whose key has "ema" in it; the setting weights is ema, model or a key.

    Raises:
        UserError: if there are several, and it is not said which.
    """
    parts = {key: part for key, part in content.items() if isinstance(key, str) and _reader_of(part) is not None}
    if not parts:
        return content
    said = settings.values.get("weights")
    named = {"ema": [key for key in parts if "ema" in key.lower()]}
    named["model"] = [key for key in parts if key not in named["ema"]]
    chosen = [said] if said in parts else named.get(said or "ema", [])
    if len(parts) == 1 and said not in parts:
        # what the one part holds may have a choice of its own
        chosen = list(parts)
        said = said if said in named and chosen == named[said] else None
    if len(chosen) != 1:
        raise UserError(f"{path} holds several models: say which, --set weights={' or '.join(map(repr, parts))}")
    if said is not None:
        settings.take("weights", "")
    settings.note(f"weights: read from {chosen[0]!r} of the file, which holds {', '.join(_keys(content))}")
    return parts[chosen[0]]


def _keys(content: dict[Any, Any]) -> list[str]:
    names = [repr(key)[:40] for key in content if isinstance(key, str)]
    return names if len(names) <= 8 else [*names[:8], "..."]
