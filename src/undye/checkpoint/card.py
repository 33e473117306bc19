"""The model card: README.md of a checkpoint, in the form that model hubs read.

It is written anew from what the checkpoint holds, so that it never says anything else: config.json, and metrics.json
if the model has been measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from undye.config import ModelConfig
from undye.data.names import NAMED_DATASETS
from undye.errors import UserError

CARD, MEASURED = "README.md", "metrics.json"
UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number of a model, with how it was made.

    Attributes:
        metric: its name, with the unit.
        value: the number.
        standard_error: of `value`; None where there is none.
        data: on which images, and how many.
        how: the recipe: whatever else would change the number.
    """

    metric: str
    value: float
    standard_error: float | None
    data: str
    how: str


def read_measurements(folder: Path) -> list[Measurement]:
    """What has been measured of the model in a checkpoint folder.

    Raises:
        UserError: if metrics.json is damaged.
    """
    path = folder / MEASURED
    if not path.exists():
        return []
    try:
        return [Measurement(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged: remove it, and measure again") from None


def measurements_text(measured: Sequence[Measurement]) -> str:
    """What metrics.json holds."""
    return json.dumps([asdict(m) for m in measured], indent=2) + "\n"


def model_card(
    config: ModelConfig, parameters: int, about: Mapping[str, Any], measured: Sequence[Measurement] = ()
) -> str:
    """The text of a checkpoint's README.md.

    Args:
        config: what the model is.
        parameters: number of weights.
        about: the facts stored beside the config: `data`, `step`, `license`, ...
        measured: its metrics.
    """
    c, s = config, config.schedule
    height, width = c.image_size
    classes = "none" if c.num_classes is None else f"{c.num_classes}"
    if c.class_names is not None:
        classes += f": {', '.join(c.class_names)}"
    facts = {
        "images": f"{height}x{width}, {c.channels} channel{'s' if c.channels > 1 else ''}, uint8",
        "classes": classes,
        "network": f"{c.network.kind}, {parameters:,} parameters",
        "predicts": c.prediction,
        "reverse variance": c.variance,
        "noise schedule": f"{s.name}, T = {s.num_steps:,}",
    }
    license = str(about.get("license") or UNKNOWN_LICENSE)
    training = {k.replace("_", " "): _shown(v) for k, v in about.items() if v is not None and k != "license"}
    return "\n".join(
        [
            *_front_matter(license, about, c.num_classes is not None),
            "# A denoising diffusion model",
            "",
            "## Model",
            "",
            *_table(facts),
            "",
            "## Training",
            "",
            *(_table(training) if training else ["Nothing is known of it."]),
            "",
            "The weights are the running average (EMA) of the trained ones, where undye trained them.",
            "",
            "## Metrics",
            "",
            *_metrics(measured),
            "",
            "## How to load",
            "",
            "```python",
            "import undye",
            "",
            'denoiser = undye.load("PATH/OF/THIS/FOLDER")',
            f"images = undye.sample(denoiser, n=16{_label(c)})  # uint8 (16, {height}, {width}, {c.channels})",
            "```",
            "",
            "```bash",
            f"undye sample PATH/OF/THIS/FOLDER --n 16{_label_flag(c)} --out samples.png",
            "```",
            "",
            "## Licence",
            "",
            _license_line(license),
            "",
        ]
    )


def diffusers_card(config: ModelConfig, license: str = UNKNOWN_LICENSE) -> str:
    """The text of the README.md of a folder for diffusers."""
    height, width = config.image_size
    return "\n".join(
        [
            *_front_matter(license, {}, config.num_classes is not None, "diffusers"),
            "# A denoising diffusion model",
            "",
            f"- images: {height}x{width}, {config.channels} channel(s), in [-1, 1]",
            f"- predicts {config.prediction}; variance {config.variance}; T = {config.schedule.num_steps}",
            "",
            "```python",
            "from diffusers import DDIMPipeline",
            "",
            'pipeline = DDIMPipeline.from_pretrained("PATH/OF/THIS/FOLDER")',
            "images = pipeline(batch_size=4, num_inference_steps=50, use_clipped_model_output=True).images",
            "```",
            "",
        ]
    )


def read_license(folder: Path) -> str | None:
    """The licence that the card of a folder states; None if there is no card, or it does not say."""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    head = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    said = [_unquoted(line.partition(":")[2].strip()) for line in head if line.startswith("license:")]
    return said[0] if said and said[0] and said[0] != UNKNOWN_LICENSE else None


def _unquoted(value: str) -> str:
    """A text of YAML without its quotes; what is in double ones is written as in JSON."""
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except (ValueError, RecursionError):
            return value.strip('"')
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    return value


def _front_matter(license: str, about: Mapping[str, Any], conditional: bool, library: str = "undye") -> list[str]:
    name = str(about.get("data")).split()[0]  # without the split; a path would say nothing to others
    dataset = [f"datasets: [{name}]"] if name in NAMED_DATASETS else []
    kind = "conditional-image-generation" if conditional else "unconditional-image-generation"
    return [
        "---",
        f"library_name: {library}",
        f"license: {json.dumps(license, ensure_ascii=False)}",  # which YAML reads too
        f"tags: [{kind}, ddpm, diffusion]",
        *dataset,
        "---",
        "",
    ]


def _table(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items())]


def _metrics(measured: Sequence[Measurement]) -> list[str]:
    if not measured:
        return ["None measured yet: `undye eval PATH/OF/THIS/FOLDER --data NAME --card` puts them here."]
    rows = []
    for m in measured:
        error = "" if m.standard_error is None else f" ± {m.standard_error:.4f}"
        rows.append(f"| {_cell(m.metric)} | {m.value:.4f}{error} | {_cell(m.data)} | {_cell(m.how)} |")
    return ["| metric | value ± standard error | data | how |", "|---|---|---|---|", *rows]


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _label(config: ModelConfig) -> str:
    return "" if config.num_classes is None or config.null_label else ", label=0"


def _label_flag(config: ModelConfig) -> str:
    return "" if config.num_classes is None or config.null_label else " --label 0"


def _license_line(license: str) -> str:
    if license == UNKNOWN_LICENSE:
        return "Not stated: ask whoever trained the model, and mind the licence of the data."
    return license
