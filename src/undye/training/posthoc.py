"""Post-hoc EMA: from the snapshots of a run's power-function averages, the average of any other length.

RUN/ema/STEP.safetensors holds, for each length that was tracked, a state dict of the network under "LENGTH." names, and
in its header what the model is. A snapshot needs nothing else of its run.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from undye.checkpoint.native import load_weights, write_tensors
from undye.config import SCHEMA_VERSION, ModelConfig
from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.files import atomic_path, remove_temporaries
from undye.structure import structure, unstructure
from undye.training.folder import RunFolder
from undye.training.profile import LONGEST, REACHABLE, SHORTEST, fit, reachable

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Averages:
    """The tracked averages at one step, to be written.

    Attributes:
        step: after which they are.
        networks: for each length a state dict of the network.
        config: of the model.
        about: facts for the checkpoints that are made from them.
    """

    step: int
    networks: dict[float, dict[str, Tensor]]
    config: ModelConfig
    about: dict[str, Any]


def write_snapshot(path: Path, averages: Averages) -> Path:
    """Write a snapshot, whole or not at all.

    Raises:
        UserError: if the disk does not take it.
    """
    header = {
        "schema_version": SCHEMA_VERSION,
        "step": averages.step,
        "stds": list(averages.networks),
        "about": averages.about,
        "model": unstructure(averages.config),
        "sha256": {
            repr(std): _sum(_digest(n, w) for n, w in weights.items()) for std, weights in averages.networks.items()
        },
    }
    tensors = {f"{std!r}.{name}": w for std, weights in averages.networks.items() for name, w in weights.items()}
    with atomic_path(path, durable=True) as temporary:
        # one entry, as in a checkpoint: the same averages are the same bytes
        write_tensors(tensors, temporary, {"undye": json.dumps(header)})
    return path


def snapshot_paths(folder: Path) -> list[Path]:
    """The snapshots in RUN/ema, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.glob(f"*{SUFFIX}") if p.stem.isdigit()), key=lambda p: int(p.stem))


def forget_after(folder: Path, step: int) -> None:
    """Remove from RUN/ema what is later than the step that a run goes on from, and what interrupted writes left."""
    remove_temporaries(folder)
    for path in snapshot_paths(folder):
        if int(path.stem) > step:
            path.unlink()


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of a run up to a step.

    Attributes:
        run: the run's folder.
        paths: the files, oldest first.
        headers: of each, what it says of itself.
    """

    run: Path
    paths: list[Path]
    headers: list[dict[str, Any]]

    @classmethod
    def of(cls, run: str | PathLike[str], step: int | None = None) -> "Snapshots":
        """Those of a run, or the ones up to and including that of `step`.

        Raises:
            UserError: if there are none, none of that step, or one is damaged.
        """
        run = Path(run)
        if not run.exists():
            raise UserError(f"no run at {run}: give a run folder")
        paths = snapshot_paths(RunFolder(run).ema)
        if not paths:
            raise UserError(
                f"{run} has no snapshots of averages: train with --training.ema-stds 0.05 0.10 to have them"
            )
        steps = [int(path.stem) for path in paths]
        if step is not None:
            if step > steps[-1]:
                raise UserError(f"the snapshots of {run} end at step {steps[-1]:,}: choose a --step up to that")
            if step not in steps:
                near = min(steps, key=lambda s: abs(s - step))
                raise UserError(f"{run} has no snapshot of step {step:,}: the nearest is that of step {near:,}")
            paths = paths[: steps.index(step) + 1]
        return cls(run, paths, [_read_header(path) for path in paths])

    @property
    def step(self) -> int:
        """The last step of them."""
        return int(self.paths[-1].stem)

    @cached_property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) steps and (n,) lengths of all averages, in the order of the files."""
        counts = [len(header["stds"]) for header in self.headers]
        steps = np.repeat([int(path.stem) for path in self.paths], counts)
        return steps, np.array([std for header in self.headers for std in header["stds"]])

    @property
    def stds(self) -> list[float]:
        """The lengths that were tracked."""
        return sorted(set(self.known[1].tolist()))

    def ranges(self) -> str:
        """Words on the lengths that can be made from them."""
        return " or ".join(f"{low:g} to {high:g}" for low, high in reachable(*self.known, self.step)) or "none"

    def coefficients(self, std: float) -> tuple[np.ndarray, float]:
        """What each average counts for in the one of length `std`, and the error, see `profile.fit`.

        Raises:
            UserError: if that length cannot be made from them.
        """
        if SHORTEST <= std <= LONGEST:
            x, errors = fit(*self.known, self.step, [std])
            if errors[0] <= REACHABLE:
                return x[:, 0], float(errors[0])
        raise UserError(
            f"an average of std {std:g} cannot be made from the {len(self.paths)} snapshots of {self.run} up to step "
            f"{self.step:,}: choose a --std of {self.ranges()}, or snapshot more often"
        )

    def sum(self, coefficients: np.ndarray, own: dict[str, Tensor], parameters: set[str]) -> dict[str, Tensor]:
        """The state dict with these coefficients, in the dtypes of the model's own; buffers are the last snapshot's.

        Raises:
            UserError: if a file is damaged or belongs to another model.
        """
        total = {name: torch.zeros(own[name].shape, dtype=torch.float64) for name in parameters}
        last: dict[str, Tensor] = {}
        share = iter(coefficients.tolist())
        for path, header in zip(self.paths, self.headers, strict=True):
            for std in header["stds"]:
                x, last = next(share), dict(_read_average(path, std, own))
                for name in parameters:
                    total[name].add_(last[name].double(), alpha=x)
        return {name: total[name].to(w.dtype) if name in total else last[name] for name, w in own.items()}


def posthoc_ema(
    run: str | PathLike[str], std: float, step: int | None = None, device: str | torch.device = "cpu"
) -> Denoiser:
    """The model of a run with averaged weights of another length, chosen after training: what `undye ema` does.

    Args:
        run: a folder of a run that was trained with `training.ema_stds`.
        std: length of the average, as the standard deviation of its weights over the steps, in parts of the run: 0.05
            reaches back over about the last tenth.
        step: at which the average is, one of which there is a snapshot; None: the last.
        device: where to put the model.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: if the run has no snapshots, none of that step, or that length cannot be made from them.
    """
    return synthesise(Snapshots.of(run, step), std)[0].to(device)


def synthesise(snapshots: Snapshots, std: float) -> tuple[Denoiser, dict[str, Any]]:
    """The model with the average of length `std` at the last of the snapshots, and facts for its checkpoint.

    Raises:
        UserError: if that length cannot be made from them, or a file is damaged.
    """
    x, _ = snapshots.coefficients(std)
    header, where = snapshots.headers[-1], str(snapshots.paths[-1])
    try:
        denoiser = Denoiser.from_config(structure(ModelConfig, header["model"], where))
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{where}: {error}") from None
    own, parameters = denoiser.network.state_dict(), {name for name, _ in denoiser.network.named_parameters()}
    load_weights(denoiser, snapshots.sum(x, own, parameters), snapshots.paths[-1])
    about = {**header["about"], "step": snapshots.step, "ema_std": std, "from": snapshots.run.resolve().name}
    return channels_last(denoiser).eval(), about


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["undye"])
    except (SafetensorError, OSError, ValueError, KeyError):
        raise UserError(f"{path} is damaged: remove it, the other snapshots make do without it") from None
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {version!r} is not {SCHEMA_VERSION}: use a newer undye")
    return header


def _read_average(path: Path, std: float, own: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    digests = []
    with safe_open(path, framework="pt") as file:
        for name, w in own.items():
            try:
                tensor = file.get_tensor(f"{std!r}.{name}")
            except SafetensorError:
                tensor = None
            if tensor is None or tensor.shape != w.shape:
                raise UserError(f"{path}: weight {name!r} is not that of the other snapshots: remove the file")
            digests.append(_digest(name, tensor))
            yield name, tensor
        expected = json.loads(file.metadata()["undye"]).get("sha256", {}).get(repr(std))
    if expected is not None and expected != _sum(digests):
        raise UserError(f"{path} is damaged (its SHA-256 is not that in its header): remove the file")


def _digest(name: str, weight: Tensor) -> str:
    return hashlib.sha256(name.encode() + weight.cpu().contiguous().numpy().tobytes()).hexdigest()


def _sum(digests: Iterable[str]) -> str:
    """One digest of many, in whatever order they come."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
