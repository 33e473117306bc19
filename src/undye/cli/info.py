"""`undye info MODEL`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from undye.cli.parse import parse
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class InfoArgs:
    """The flags of `undye info`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint folder."""
    json: bool = False
    """Print JSON instead of lines."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(InfoArgs, args, "undye info", "Say what a model is.")
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")

    from undye.checkpoint.imported import Settings
    from undye.checkpoint.load import is_foreign, read_foreign
    from undye.checkpoint.native import WEIGHTS, find_checkpoint, load, read_about
    from undye.diffusion.terminal import terminal
    from undye.structure import unstructure

    source, notes = Path(a.model), []
    if is_foreign(source):
        found = read_foreign(source, Settings())
        folder, denoiser, notes = source, found.denoiser, found.notes
        about = {"written_by": found.kind}
        # as the reader does: a .safetensors before a .bin that lies beside it
        files = [source] if source.is_file() else [*source.rglob("*.safetensors"), *source.rglob("*.bin")]
        size = files[0].stat().st_size
    else:
        folder = find_checkpoint(a.model)
        denoiser, about, size = load(folder), read_about(folder), (folder / WEIGHTS).stat().st_size
    config, schedule = denoiser.config, denoiser.schedule
    end = terminal(schedule)
    facts = {
        "checkpoint": str(folder),
        "parameters": sum(p.numel() for p in denoiser.network.parameters()),
        "weights_bytes": size,
        "resumable": (folder / "train_state").is_dir(),
        "about": about,
        "model": unstructure(config),
        "terminal": vars(end),
    }
    if a.json:
        print(json.dumps({**facts, "notes": notes} if notes else facts, indent=2))
        return 0
    height, width = config.image_size
    classes = "none"
    if config.num_classes is not None:
        classes = (
            f"{config.num_classes} ({', '.join(config.class_names)})" if config.class_names else config.num_classes
        )
    rows = {
        "checkpoint": folder,
        **{key.replace("_", " "): value for key, value in facts["about"].items() if value is not None},
        "images": f"{height}x{width}, {config.channels} channel{'s' if config.channels > 1 else ''}",
        "classes": classes,
        "network": f"{config.network.kind}, {facts['parameters']:,} parameters, {facts['weights_bytes'] / 1e6:.1f} MB",
        **{
            f"  {key.replace('_', ' ')}": value if not isinstance(value, list) else ", ".join(map(str, value)) or "none"
            for key, value in unstructure(config.network).items()
            if key != "kind"
        },
        "predicts": config.prediction,
        "variance": config.variance,
        "schedule": f"{config.schedule.name}, T = {schedule.num_steps}, log-SNR at T {end.log_snr:.2f}",
        "  prior term": f"{end.prior_bits_per_dim:.2g} bits/dim",
        "resumable": "yes" if facts["resumable"] else "no",
    }
    width_of_keys = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width_of_keys}}  {value}")
    for note in notes:
        print(f"note: {note}")
    return 0
