"""What the readers of other projects' models share: settings from the user, and notes for the user.

A reader of files is a module with two functions, and a line in `undye.checkpoint.load.FILES`:

knows(content) -> bool                      whether what the file holds looks like this project's, by its keys
read(path, content, settings) -> Imported   the model
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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


MADE_UP_SIZE = (64, 64)
"""For a model that is only described: none of the networks has weights that depend on it."""


class ImportNote(UserWarning):
    """What a file of another project does not say, and what was taken instead."""


@dataclass
class Settings:
    """What the user says of a model where its file does not: KEY=VALUE each.

    Keys are the fields of ModelConfig (prediction, variance, clip_x_0, ...), schedule.NAME for those of its schedule,
    and those that a reader takes for itself. `check_used` finds the ones that nobody asked for.

    Attributes:
        values: the user's texts by key.
        notes: lines for the user.
        describing: the model is only to be described: what it needs and nobody says is put in `missing`, no error.
        missing: keys of such settings; the model has a made-up value for each.
    """

    values: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    describing: bool = False
    missing: list[str] = field(default_factory=list)
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

    def needed_image_size(self, where: object) -> tuple[int, int]:
        """The user's image size, for a model that neither says it nor has a usual one.

        Raises:
            UserError: if the user does not say it either, and the model is to be used.
        """
        if "image_size" in self.values:
            return self.take("image_size", None)
        if not self.describing:
            raise UserError(f"{where} does not say the size of its images: give it, --set image_size=H or HxW")
        self.missing.append("image_size")
        return MADE_UP_SIZE

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
