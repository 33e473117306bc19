"""What the readers of other projects' models share: settings from the user, notes for the user, safe unpickling.

A reader of files of torch.save is a module with two functions, and a line in `undye.checkpoint.load.FILES`:

knows(content) -> bool                      whether what the file holds looks like this project's, by its keys
read(path, content, settings) -> Imported   the model
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undye.config import ModelConfig
from undye.data.names import parse_image_size
from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.structure import structure


@dataclass(frozen=True)
class Imported:
    """A model of another project.

    Attributes:
        denoiser: the model, in eval mode.
        kind: the project's name.
        notes: lines for the user: what the file does not say, and what was taken instead.
        license: of the weights, where that is said.
    """

    denoiser: Denoiser
    kind: str
    notes: list[str]
    license: str | None = None

    @classmethod
    def build(
        cls,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        kind: str,
        settings: "Settings",
        license: str | None = None,
    ) -> "Imported":
        """A model from its configuration and all weights of its network, by undye's names, in the right shapes.

        Raises:
            UserError: if a weight is not a number.
        """
        for name, weight in weights.items():
            if not bool(weight.float().isfinite().all()):
                raise UserError(
                    f"weight {name!r} (undye's name) is not finite: its training diverged, take an earlier file"
                )
        with torch.device("meta"):
            denoiser = Denoiser.from_config(config)
        denoiser.network.load_state_dict({k: v.float().contiguous() for k, v in weights.items()}, assign=True)
        return cls(channels_last(denoiser).eval(), kind, settings.notes, license)


class ImportNote(UserWarning):
    """What a file of another project does not say, and what was taken instead."""


@dataclass
class Settings:
    """What the user says of a model where its file does not: KEY=VALUE each.

    Keys are the fields of ModelConfig (prediction, variance, clip_x_0, ...), schedule.NAME for those of its schedule,
    and those that a reader takes for itself. `check_used` finds the ones that nobody asked for.
    """

    values: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)

    @classmethod
    def parse(cls, pairs: tuple[str, ...] | list[str]) -> "Settings":
        """From KEY=VALUE texts.

        Raises:
            UserError: for a text without `=`, or a key that is given twice.
        """
        values: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise UserError(f"--set takes KEY=VALUE, not {pair!r}")
            if key in values:
                raise UserError(f"--set {key} is given twice")
            values[key] = value
        return cls(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """From Python's own values: True, 16, (16, 24), ..."""

        def text(value: Any) -> str:
            if isinstance(value, tuple | list):
                return "x".join(map(str, value))
            return str(value).lower() if isinstance(value, bool) else str(value)

        return cls({key: text(value) for key, value in values.items()})

    def note(self, line: str) -> None:
        """Say something to the user."""
        self.notes.append(line)

    def take(self, key: str, usual: Any) -> Any:
        """The user's value for `key`, read as what `usual` is; else `usual`."""
        if key not in self.values:
            return usual
        self._used.add(key)
        text = self.values[key]
        if key == "image_size":
            return parse_image_size(text)
        return _read(text, type(usual), f"--set {key}") if usual is not None else text

    def unsaid(self, usual: Mapping[str, Any], project: str) -> dict[str, Any]:
        """The user's values for what a file does not say, else the project's, each of which is noted."""
        found = {key: self.take(key, value) for key, value in usual.items()}
        for key, value in found.items():
            if key not in self.values:
                self.note(f"{key}: the file does not say, {_show(value)} is {project}'s default (--set {key}=...)")
        return found

    def over(self, model: dict[str, Any]) -> dict[str, Any]:
        """Fields of ModelConfig with the user's in place of those of the file."""
        merged = dict(model)
        known = {f.name for f in fields(ModelConfig)} - {"network", "image_size", "channels", "schedule"}
        for key, text in self.values.items():
            if key in known and key in model:
                value = self.take(key, model[key])
                merged[key] = getattr(structure(ModelConfig, {key: value}, "--set", ModelConfig()), key)
            elif key.startswith("schedule.") and "schedule" in model:
                self._used.add(key)
                name = key.removeprefix("schedule.")
                schedule = merged["schedule"]
                if name not in vars(schedule):
                    raise UserError(f"--set {key}: a schedule has {', '.join(vars(schedule))}")
                kinds = {"name": str, "num_steps": int, "rescale_betas": bool, "zero_terminal_snr": bool}
                value = _read(text, kinds.get(name, float), f"--set {key}")
                merged["schedule"] = structure(type(schedule), {name: value}, "--set schedule", schedule)
        return merged

    def check_used(self) -> None:
        """Raise a UserError if a setting of the user's was asked for by nobody."""
        if unused := sorted(set(self.values) - self._used):
            raise UserError(f"--set {unused[0]}: no such setting for this kind of model")


def _read(text: str, kind: type, where: str) -> Any:
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{where}: true or false, not {text!r}")
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def state_dict_of(data: Any, path: Path) -> dict[str, Tensor]:
    """What a file of torch.save holds, or a part of that, as named tensors.

    Raises:
        UserError: if it is anything else.
    """
    if not isinstance(data, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()):
        raise UserError(f"{path} is no state dict: it should hold named tensors and nothing else")
    for name, tensor in data.items():
        if not _is_plain(tensor):
            raise UserError(f"{path}: weight {name!r} is no plain array of numbers")
    return data


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is stored number by number: not sparse, quantised, nested, elsewhere or blown up from a few."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def read_pickle(path: Path) -> Any:
    """What a file of torch.save holds, read with weights_only: nothing in it is run.

    Raises:
        UserError: if it is damaged, or holds anything but tensors and plain data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about the protocol of what then turns out to be damaged
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except pickle.UnpicklingError as error:
        what = " ".join(str(error).split()).split(". ")[0]
        raise UserError(f"{path} holds more than tensors and plain data, and is not read: {what}") from None
    except MemoryError:
        raise UserError(f"{path} claims to be larger than the memory: it is damaged") from None
    except Exception as error:  # torch raises all sorts for a damaged file, and each of them means just that
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged, or no file of torch.save ({type(error).__name__}: {what})") from None
