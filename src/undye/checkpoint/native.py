"""undye's own checkpoint: a folder that holds all that is needed to rebuild a model, and to go on training it.

config.json          the ModelConfig and the schema version
model.safetensors    the network's EMA weights
train_state/         what resuming needs beside these: tensors.safetensors and state.json
checksums.json       the SHA-256 of each of these
metrics.json         what has been measured, if anything has
grids.json           step grids that were made for the model, if any were
README.md            what this is, for people: the model card
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from undye.checkpoint.card import CARD, MEASURED, Measurement, measurements_text, model_card, read_measurements
from undye.checkpoint.checksums import CHECKSUMS, check, checksums_text
from undye.checkpoint.grids import GRIDS, grids_text, read_grids
from undye.config import SCHEMA_VERSION, ModelConfig
from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.files import atomic_path, write_text
from undye.structure import structure, unstructure

CONFIG, WEIGHTS, STATE = "config.json", "model.safetensors", "train_state"
WeightsName = Literal["ema", "raw"]
STATE_FILES = (f"{STATE}/tensors.safetensors", f"{STATE}/state.json")


@dataclass(frozen=True)
class TrainState:
    """What resuming needs beside the EMA weights."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """All that goes into a checkpoint.

    Attributes:
        config: of the model.
        weights: the network's state dict.
        parameters: number of weights that are trained.
        train_state: to go on training; None for a model that is only to be used.
        about: facts for the model card and config.json.
        grids: step grids that were made for the model.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    parameters: int
    train_state: TrainState | None
    about: dict[str, Any]
    grids: dict[int, OptimisedGrid] = field(default_factory=dict)

    @classmethod
    def of(
        cls, denoiser: Denoiser, train_state: TrainState | None = None, about: dict[str, Any] | None = None
    ) -> "Snapshot":
        """Of a model as it is now; the tensors are not copied."""
        weights = denoiser.network.state_dict()
        return cls(denoiser.config, weights, count_weights(denoiser), train_state, about or {}, dict(denoiser.grids))

    def copied(self) -> "Snapshot":
        """The same with tensors of its own, on the CPU: training may go on while it is written."""

        def own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

        state = self.train_state
        state = None if state is None else TrainState(own(state.tensors), dict(state.values))
        return Snapshot(self.config, own(self.weights), self.parameters, state, dict(self.about), dict(self.grids))


def save(
    folder: str | Path,
    denoiser: Denoiser,
    train_state: TrainState | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: where; must not exist.
        denoiser: the model, with its EMA weights.
        train_state: to go on training; None for a model that is only to be used.
        about: facts for the model card and config.json (`step`, `data`, ...).

    Returns:
        The folder.

    Raises:
        UserError: if `folder` exists.
    """
    return write(Path(folder), Snapshot.of(denoiser, train_state, about))


def write(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint, whole or not at all: `save`, for what may change meanwhile."""
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name")
    train_state = snapshot.train_state
    with atomic_path(folder, durable=True) as temporary:
        temporary.mkdir()
        config = {
            "schema_version": SCHEMA_VERSION,
            "checksums": CHECKSUMS,  # says that the file has to be there
            "model": unstructure(snapshot.config),
            "about": snapshot.about,
        }
        text = json.dumps(config, indent=2) + "\n"
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        # the config travels in the header too, so that the file alone says what it is; one entry only, because
        # safetensors writes several in random order, and the same model should be the same bytes
        write_tensors(snapshot.weights, temporary / WEIGHTS, {"undye": text})
        text = model_card(snapshot.config, snapshot.parameters, snapshot.about)
        (temporary / CARD).write_text(text, encoding="utf-8")
        if train_state is not None:
            (temporary / STATE).mkdir()
            write_tensors(train_state.tensors, temporary / STATE / "tensors.safetensors", {})
            (temporary / STATE / "state.json").write_text(
                json.dumps(train_state.values, indent=2) + "\n", encoding="utf-8"
            )
        if snapshot.grids:
            (temporary / GRIDS).write_text(grids_text(snapshot.grids), encoding="utf-8")
        names = [CONFIG, WEIGHTS, *(STATE_FILES if train_state is not None else ())]
        (temporary / CHECKSUMS).write_text(checksums_text(temporary, names), encoding="utf-8")
    return folder


def add_measurements(folder: Path, measured: list[Measurement]) -> None:
    """Put metrics into a checkpoint, in place of earlier ones of the same name, data and recipe, and renew its card.

    Raises:
        UserError: if the folder is no checkpoint, or damaged, or cannot be written to.
    """
    denoiser = load(folder)
    new = {(m.metric, m.data, m.how) for m in measured}
    kept = [m for m in read_measurements(folder) if (m.metric, m.data, m.how) not in new]
    text = model_card(denoiser.config, count_weights(denoiser), read_about(folder), [*kept, *measured])
    try:
        write_text(folder / MEASURED, measurements_text([*kept, *measured]))
        write_text(folder / CARD, text)
    except OSError as error:
        raise UserError(f"cannot write the model card into {folder}: {error.strerror}") from None


def count_weights(denoiser: Denoiser) -> int:
    """Number of the network's trained numbers."""
    return sum(p.numel() for p in denoiser.network.parameters())


def load(source: str | Path, device: str | torch.device = "cpu", weights: WeightsName = "ema") -> Denoiser:
    """A trained model, in eval mode.

    Args:
        source: a run folder (its newest checkpoint) or a checkpoint folder.
        device: where to put it.
        weights: "ema", the averages, which is what a model is used with, or "raw", what the optimiser had.

    Raises:
        UserError: if there is no model there, its files are damaged or do not fit together, or it has no raw weights.
    """
    folder = find_checkpoint(source)
    if weights == "raw" and not (folder / STATE_FILES[0]).exists():
        raise UserError(f"{folder} holds a model but no training state, so no raw weights: choose the weights ema")
    check(folder, (CONFIG, WEIGHTS if weights == "ema" else STATE_FILES[0]))
    config = read_config(folder)
    tensors = read_weights(folder / WEIGHTS) if weights == "ema" else read_raw_weights(folder)
    try:
        denoiser = Denoiser.from_config(config)
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
    load_weights(denoiser, tensors, folder / (WEIGHTS if weights == "ema" else STATE_FILES[0]))
    denoiser.grids = read_grids(folder, denoiser.schedule.num_steps)
    return channels_last(denoiser).to(device).eval()


def load_weights(denoiser: Denoiser, weights: dict[str, Tensor], where: Path) -> None:
    """Put weights into a model's network.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    own = denoiser.network.state_dict()
    if missing := sorted(set(own) - set(weights)):
        raise UserError(f"{where}: weight {missing[0]!r} is missing ({len(missing)} in all)")
    if extra := sorted(set(weights) - set(own)):
        raise UserError(f"{where}: weight {extra[0]!r} belongs to no part of the model ({len(extra)} in all)")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            found, needed = tuple(weights[name].shape), tuple(tensor.shape)
            raise UserError(f"{where}: weight {name!r} has shape {found}, the model needs {needed}")
    denoiser.network.load_state_dict(weights)


def load_train_state(folder: Path) -> TrainState:
    """What `save` stored for going on with a run.

    Raises:
        UserError: if the checkpoint has none, or it is damaged.
    """
    values = read_train_values(folder)
    check(folder, STATE_FILES)
    return TrainState(read_weights(folder / STATE / "tensors.safetensors"), values)


def read_raw_weights(folder: Path) -> dict[str, Tensor]:
    """The network's state dict as the optimiser had it.

    Raises:
        UserError: if the checkpoint has none, or it is damaged.
    """
    path = folder / STATE_FILES[0]
    prefix = "weights.network."
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): use an earlier checkpoint") from None


def read_train_values(folder: Path) -> dict[str, Any]:
    """The numbers of a training state, without its tensors.

    Raises:
        UserError: if the checkpoint has none, or they are damaged.
    """
    path = folder / STATE / "state.json"
    if not path.exists():
        raise UserError(f"{folder} holds a model but no training state: start a new run with --init {folder}")
    return read_json(path)


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint folder that `source` means: itself, or the newest one of a run.

    Raises:
        UserError: if there is none.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"no model at {source}: give a run folder or a checkpoint folder")
    if (source / CONFIG).exists():
        return source
    if found := checkpoints(source):
        return found[-1]
    raise UserError(f"{source} holds no model: a run folder has checkpoints/, a checkpoint folder has {CONFIG}")


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(
        (p for p in folder.iterdir() if p.name.isdigit() and (p / CONFIG).exists()), key=lambda p: int(p.name)
    )


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a checkpoint folder."""
    path = folder / CONFIG
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version!r} is not {SCHEMA_VERSION}: use a newer undye")
    return structure(ModelConfig, data.get("model"), str(path))


def read_about(folder: Path) -> dict[str, Any]:
    """The facts that were stored beside the config: step, data, ..."""
    about = read_json(folder / CONFIG).get("about")
    return about if isinstance(about, dict) else {}


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the checkpoint is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): use an earlier checkpoint") from None


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        UserError: if the disk does not take it.
    """
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata)
    except SafetensorError as error:  # what it makes of a full disk, too
        raise UserError(f"cannot write {path.name}: {error}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the checkpoint is incomplete") from None
    except (ValueError, RecursionError, OSError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({what}): use an earlier checkpoint") from None
