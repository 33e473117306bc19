"""`undye train [PRESET] --data ... --out RUN`."""

import os
import signal
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import tyro

from undye.cli.options import Device, Threads
from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.config import ModelConfig, NetworkConfig, PredictionName, ScheduleConfig, TimeInput, VarianceName
from undye.data.names import NAMED_DATASETS, parse_image_size, show_size
from undye.errors import UserError
from undye.presets import MODEL_PRESETS
from undye.structure import structure
from undye.training.folder import RunFolder, read_toml
from undye.training.presets import run_preset
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig, WatchConfig, parse_duration


@dataclass(frozen=True, kw_only=True)
class ModelArgs:
    """The model; its shape comes from the data."""

    network: tyro.conf.AvoidSubcommands[NetworkConfig]
    prediction: PredictionName
    """What the network predicts."""
    variance: VarianceName
    """The variance of ancestral steps."""
    schedule: ScheduleConfig
    clip_x_0: bool
    """Samplers clip the predicted x_0 to [-1, 1]."""
    time_input: TimeInput
    """What the network is told of the time: t - 1, 1000 t / T, or 1000 (t - 1) / T."""


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """The flags of `undye train`."""

    out: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """The run's folder: checkpoints, samples, log.jsonl, config.toml."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """A named data set, a folder of images, or an .npz / .npy file."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize (aspect ratio kept) and crop the images to this; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    labels: Literal["none", "folders", "auto"] = "none"
    """Class labels: none, from sub-folder names (folders), or those that come with the data (auto)."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    budget: Annotated[str, tyro.conf.arg(metavar="TIME")] = ""
    """90s, 10m, 1.5h: time from the first step to the final weights; it decides the number of steps."""
    config: Annotated[str, tyro.conf.arg(metavar="FILE.toml")] = ""
    """Settings from a file, such as another run's config.toml; flags override it."""
    init: Annotated[str, tyro.conf.arg(metavar="MODEL")] = ""
    """A model to start from instead of random weights."""
    set: Set = ()
    resume: bool = False
    """Go on with the run in RUN if there is one."""
    seed: int = 0
    """Names the random numbers of the run."""
    license: str = "unknown"
    """Of the weights, for the model card: an SPDX name such as mit or cc-by-4.0."""
    device: Device = ""
    threads: Threads = 0
    model: ModelArgs
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    preset, args = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    args = joined(args)
    base = _base(preset, _value(args, "--config"), _value(args, "--out") if "--resume" in args else "")
    parsed = parse(TrainArgs, args, f"undye train [{'|'.join(MODEL_PRESETS)}]", _description(), _to_args(base))
    config = _to_config(parsed, base)
    if not config.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    if not parsed.out:
        raise UserError("no --out: name a folder for the run")

    from undye.device import set_threads
    from undye.training.console import Console
    from undye.training.session import Interrupted, run

    set_threads(parsed.threads or None)
    try:
        path = run(config, parsed.out, resume=parsed.resume, device=parsed.device or None, listeners=[Console()])
    except Interrupted as stop:
        # a scheduler that takes the machine away has its way: the run is saved, and that is a good end
        return 128 + stop.signal if stop.signal == signal.SIGINT else 0
    if os.environ.get("RANK", "0") == "0":  # of several processes, the main one
        print(path)
    return 0


def _description() -> str:
    sets = "\n".join(f"  {d.name:<14} {d.about}" for d in NAMED_DATASETS.values())
    return (
        "Train a model on images. PRESET says what is trained and how; all of it can be overridden, by a file "
        "(--config) and by flags.\n\nNamed data sets:\n" + sets
    )


def _value(args: list[str], flag: str) -> str:
    """The value of a flag that has to be known before the rest can be parsed."""
    for i, arg in enumerate(args):
        if arg.startswith(flag + "="):
            return arg.partition("=")[2]
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
    return ""


def _base(preset: str, file: str, resumed: str) -> RunConfig:
    """What the flags override: the stored run that is resumed, or the preset; then the file."""
    toml = read_toml(Path(file)) if file else {}
    toml.pop("about", None)
    if resumed and RunFolder(Path(resumed)).exists():
        base = RunFolder(Path(resumed)).read_config()
        if preset and preset != base.preset:
            raise UserError(f"this run was started with the preset {base.preset!r}, not {preset!r}: leave that out")
    else:
        named = preset or toml.get("preset", "cpu")
        if not isinstance(named, str):
            raise UserError(f"{file}: unknown preset {named!r}: presets are {', '.join(MODEL_PRESETS)}")
        base = run_preset(named)
    return structure(RunConfig, toml, file, base) if toml else base


def _to_args(c: RunConfig) -> TrainArgs:
    model = ModelArgs(**{f.name: getattr(c.model, f.name) for f in fields(ModelArgs)})
    return TrainArgs(
        out="",
        data=c.data,
        image_size=show_size(c.image_size) if c.image_size else "",
        channels=c.channels,
        labels=c.labels,
        upscale=c.upscale,
        budget=f"{Decimal(repr(c.budget_seconds)):f}s" if c.budget_seconds is not None else "",
        init=c.init or "",
        set=c.init_settings,
        seed=c.seed,
        license=c.license,
        model=model,
        training=c.training,
        checkpoint=c.checkpoint,
        preview=c.preview,
        watch=c.watch,
    )


def _to_config(a: TrainArgs, base: RunConfig) -> RunConfig:
    if a.budget and a.training.steps != base.training.steps:
        raise UserError("give --budget or --training.steps, not both: the budget decides the number of steps")
    if a.set and not a.init:
        raise UserError("--set says what another project's model does not: give that model with --init")
    if a.init and a.model != _to_args(base).model:
        raise UserError("--init takes the model as it is: leave --model.* out")
    model: ModelConfig = replace(base.model, **{f.name: getattr(a.model, f.name) for f in fields(ModelArgs)})
    return replace(
        base,
        data=a.data,
        image_size=parse_image_size(a.image_size) if a.image_size else None,
        channels=a.channels,
        labels=a.labels,
        upscale=a.upscale,
        budget_seconds=parse_duration(a.budget) if a.budget else None,
        init=a.init or None,
        init_settings=a.set,
        seed=a.seed,
        license=a.license,
        model=model,
        training=a.training,
        checkpoint=a.checkpoint,
        preview=a.preview,
        watch=a.watch,
    )
