"""`undye info MODEL`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from undye.checkpoint.program_info import SUFFIXES, is_program, read_info
from undye.cli.options import Weights, WeightsName
from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.config import ModelConfig
from undye.errors import UserError
from undye.structure import unstructure


@dataclass(frozen=True, kw_only=True)
class InfoArgs:
    """The flags of `undye info`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, another project's model, or an exported .onnx or .pt2 file."""
    json: bool = False
    """Print JSON instead of lines."""
    weights: Weights = "ema"
    set: Set = ()


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(InfoArgs, joined(args), "undye info", "Say what a model is.")
    source = Path(a.model)
    if not source.exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")
    if is_program(source) and a.set:
        raise UserError("--set is for other projects' models: a program says all of it itself")
    config, facts, rows = _program(source, a.weights) if is_program(source) else _model(source, a.weights, a.set)
    unsaid = facts.pop("unsaid", [])

    from undye.denoiser import build_schedule
    from undye.diffusion.terminal import terminal

    try:
        end = terminal(build_schedule(config.schedule))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if a.json:
        notes = facts.pop("notes", None)
        model = unstructure(config) | dict.fromkeys(unsaid)
        facts |= {"model": model, "terminal": vars(end)} | ({"notes": notes} if notes else {})
        print(json.dumps(facts, indent=2))
        return 0
    size = f"{facts['parameters']:,} parameters, {facts['weights_bytes'] / 1e6:.1f} MB"
    rows |= {
        **_rows(config, size, sized="image_size" not in unsaid),
        "schedule": f"{config.schedule.name}, T = {config.schedule.num_steps}, log-SNR at T {end.log_snr:.2f}",
        "  prior term": f"{end.prior_bits_per_dim:.2g} bits/dim",
    }
    if "resumable" in facts:
        rows["resumable"] = "yes" if facts["resumable"] else "no"
    width_of_keys = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width_of_keys}}  {value}")
    for note in facts.get("notes", ()):
        print(f"note: {note}")
    return 0


def _model(
    source: Path, weights: WeightsName, pairs: tuple[str, ...]
) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """Of a model: its configuration, the facts for --json, and the first rows for people."""
    from undye.checkpoint.diffusers import weight_files
    from undye.checkpoint.imported import Settings
    from undye.checkpoint.load import is_foreign, read_foreign
    from undye.checkpoint.native import WEIGHTS, find_checkpoint, load, read_about

    settings = Settings.parse(pairs)
    settings.describing = True
    own = not is_foreign(source)
    if not own:
        if weights != "ema":
            raise UserError("--weights raw is for undye's own checkpoints: leave it out")
        found = read_foreign(source, settings)
        folder, denoiser = source, found.denoiser
        about = {"written_by": found.kind}
        size = sum(file.stat().st_size for file in ([source] if source.is_file() else weight_files(source)))
    else:
        if pairs:
            raise UserError("--set is for other projects' models: undye's own say all of it themselves")
        folder = find_checkpoint(source)
        denoiser, about = load(folder, weights=weights), read_about(folder)
        size = (folder / WEIGHTS).stat().st_size
        if weights == "raw":
            size = sum(w.nbytes for w in denoiser.network.state_dict().values())
    facts = {
        "checkpoint": str(folder),
        "parameters": sum(p.numel() for p in denoiser.network.parameters()),
        "weights_bytes": size,
        "resumable": (folder / "train_state").is_dir(),
        "weights": weights if own else None,
        "about": about,
        "notes": settings.notes,
        "unsaid": settings.missing,
    }
    shown = {key.replace("_", " "): value for key, value in about.items() if value is not None}
    raw = {"weights": "raw"} if weights == "raw" else {}
    return denoiser.config, facts, {"checkpoint": folder, **raw, **shown}


def _program(source: Path, weights: WeightsName) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """The same of an exported program."""
    if weights != "ema":
        raise UserError("--weights raw is for undye's own checkpoints: leave it out")
    info = read_info(source)
    kind = next(kind for kind, suffix in SUFFIXES.items() if suffix == source.suffix.lower())
    facts = {
        "program": str(source),
        "kind": kind,
        "parameters": info.parameters,
        "weights_bytes": source.stat().st_size,
        "about": {"undye": info.undye, "torch": info.torch},
        "inputs": unstructure(info.inputs),
        "outputs": unstructure(info.outputs),
    }
    form = {"onnx": "ONNX", "torch": "torch.export"}[kind]
    rows = {
        "program": source,
        "kind": f"{form}, written by undye {info.undye} with torch {info.torch}",
        "inputs": "; ".join(map(str, info.inputs)),
        "outputs": "; ".join(map(str, info.outputs)),
    }
    return info.model, facts, rows


def _rows(config: ModelConfig, size: str, sized: bool) -> dict[str, Any]:
    """What a model is, for people; `sized` is whether the size of its images is known."""
    images = "{}x{}".format(*config.image_size) if sized else "of a size that is not said (--set image_size=HxW)"
    classes = "none"
    if config.num_classes is not None:
        classes = (
            f"{config.num_classes} ({', '.join(config.class_names)})" if config.class_names else config.num_classes
        )
    return {
        "images": f"{images}, {config.channels} channel{'s' if config.channels > 1 else ''}",
        "classes": classes,
        "network": f"{config.network.kind}, {size}",
        **{
            f"  {key.replace('_', ' ')}": value if not isinstance(value, list) else ", ".join(map(str, value)) or "none"
            for key, value in unstructure(config.network).items()
            if key != "kind"
        },
        "predicts": config.prediction,
        "variance": config.variance,
    }
