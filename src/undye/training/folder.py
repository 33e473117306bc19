"""A run's folder: where its files are, and its config.toml."""

import os
import platform
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from undye.errors import UserError
from undye.files import sync, write_text
from undye.structure import structure, unstructure
from undye.training.run import RunConfig

LOCK = ".lock"
MEANS = ("workers", "prefetch", "accumulate", "compile", "parallel")
"""Settings of training that say how it is computed, not what."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved RunConfig, with the command and the versions that made it."""
        return self.path / "config.toml"

    @property
    def log(self) -> Path:
        """What happened, one JSON object per line."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint, named by its step."""
        return self.path / "checkpoints"

    @property
    def ema(self) -> Path:
        """Snapshots of the averages for post-hoc EMA, named by their step; all of them stay."""
        return self.path / "ema"

    @property
    def samples(self) -> Path:
        """Sample grids, named by their step."""
        return self.path / "samples"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training into this folder; a process that dies gives it free.

        Raises:
            UserError: if another one does.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose another --out")
        new = not self.path.exists()
        path = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise UserError(f"cannot write into {self.path}: {error.strerror}: choose another --out") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # the one who had it may have removed the name between our opening it and our locking it
                held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            except OSError:
                held = False
            if not held:
                raise UserError(f"another process is training into {self.path}: wait for it, or choose another --out")
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                if new and not any(self.path.iterdir()):
                    self.path.rmdir()  # nothing came of it

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    def check_new(self) -> None:
        """Make sure that a new run would not touch anything.

        Raises:
            UserError: if there is a run, or anything else.
        """
        if self.exists():
            raise UserError(f"{self.path} holds a run already: add --resume to go on with it, or choose another --out")
        # a run that is killed at once leaves its lock, and may leave a half-written config.toml
        ours = (LOCK, f".{self.config.name}.tmp")
        if self.path.exists() and (
            not self.path.is_dir() or any(not p.name.startswith(ours) for p in self.path.iterdir())
        ):
            raise UserError(f"{self.path} exists and is not a run: choose another --out")

    def write_config(self, config: RunConfig) -> None:
        """Write config.toml."""
        from importlib.metadata import version  # slow to import, and `--help` reads this module

        about = read_toml(self.config).get("about") if self.exists() else None  # how it was started, not how it went on
        about = about or {
            "command": shlex.join(sys.argv).encode("utf-8", "replace").decode(),
            "undye": version("undye"),
            "torch": version("torch"),
            "python": platform.python_version(),
        }
        text = tomli_w.dumps({"about": about, **_without_none(unstructure(config))})
        write_text(self.config, text, durable=True)
        sync(self.path.absolute().parent)  # a run that is new is a new name there

    def read_config(self) -> RunConfig:
        """Read config.toml.

        Raises:
            UserError: if it is damaged.
        """
        data = read_toml(self.config)
        data.pop("about", None)
        if not data.get("data") or "model" not in data:
            raise UserError(f"{self.config} is damaged: it should say what the run is; bring it back, or start anew")
        return structure(RunConfig, data, str(self.config))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    training = data.get("training")
    if isinstance(training, dict) and isinstance(training.get("stratified"), bool):
        # what version 0.1.0 called it
        training["timesteps"] = "stratified" if training.pop("stratified") else "uniform"
    return data


def continue_run(stored: RunConfig, asked: RunConfig) -> RunConfig:
    """The configuration with which a stored run goes on when `asked` for.

    How often it is saved and previewed may change, how its work is spread over threads, memory and processes, and the
    number of steps of a run without a budget; nothing that the steps already taken depend on.

    Raises:
        UserError: naming the first setting that differs.
    """
    before, now = _flat(unstructure(stored)), _flat(unstructure(asked))
    # the stored model has the shape of its data, and with --init all of it is that model's
    free = [
        "checkpoint.",
        "preview.",
        *(f"model.{k}" for k in ("image_size", "channels", "num_classes", "class_names")),
    ]
    free += ["license", *(f"training.{k}" for k in MEANS)]
    free += ["training.steps"] + (["model."] if stored.init else [])
    free += ["training.warmup"] if stored.budget_seconds is not None else []
    for key, value in before.items():
        if value != now.get(key) and not key.startswith(tuple(free)):
            raise UserError(
                f"this run was started with {key} = {value!r}, not {now.get(key)!r}: leave that out, "
                "or start a new run with another --out"
            )
    # a budget has decided the number of steps, and has kept the warm-up within them
    steps = asked.training.steps if stored.budget_seconds is None else stored.training.steps
    training = replace(stored.with_steps(steps).training, **{k: getattr(asked.training, k) for k in MEANS})
    return replace(stored, training=training, checkpoint=asked.checkpoint, preview=asked.preview, license=asked.license)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _without_none(data: Any) -> Any:
    """TOML has no null: what is None is left out, and reads back as None, the default wherever it is allowed."""
    if isinstance(data, dict):
        return {k: _without_none(v) for k, v in data.items() if v is not None}
    return data
