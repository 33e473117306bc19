"""What `undye eval` and `undye compare` share: their flags, what of these needs which metric, and the run itself."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from undye.cli.bars import Bars
from undye.cli.options import Device, Threads, Weights
from undye.cli.settings import Set
from undye.data.names import HUB, NAMED_DATASETS, parse_image_size
from undye.errors import UserError

BOUND = ("nll", "rate-distortion")
IN_FEATURES = ("fid", "kid", "is", "pr", "sfid", "fid-per-class", "neighbours")
FROM_SAMPLES = (*IN_FEATURES, "memorization")

Metrics = Annotated[
    tuple[
        Literal[
            "nll", "rate-distortion", "ode", "memorization", "fid", "kid", "is", "pr", "sfid", "fid-per-class",
            "neighbours",
        ],
        ...,
    ],
    tyro.conf.arg(
        help="What a model says of images: nll (the variational bound in bits/dim), rate-distortion (the paper's Table "
        "4), ode (the probability-flow ODE's likelihood, an independent bound). Samples beside the data, in features: "
        "fid (and FID-infinity), kid, is (Inception Score), pr (precision, recall, density, coverage), sfid, "
        "fid-per-class. Samples beside the training images: memorization (are they nearer than unseen images?), "
        "neighbours."
    ),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """The flags of both."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """What to measure on and beside: a named data set (its test images), a folder of images, or an .npz / .npy file."""
    metrics: Metrics = ("nll",)
    out: Annotated[str, tyro.conf.arg(metavar="REPORT.json")] = ""
    """Also write everything, with how it was made, as JSON."""
    n: int | None = None
    """Samples of a model, images of a set, and images of the data for the likelihoods; without it 10,000 samples for
    metrics in features, else 1,000; all images of a set; 1,000 images of the data."""
    exact: bool = False
    """Every term of the bound, all T of them, instead of some drawn for each image."""
    draws: int | None = None
    """nll: terms drawn for each image, where not --exact (16)."""
    steps: int | None = None
    """nll, rate-distortion: length of the chain; without it all T."""
    grid: Literal["uniform", "quadratic"] | None = None
    """nll, rate-distortion: how a shorter chain's steps are spread (uniform)."""
    clip: bool | None = None
    """nll, rate-distortion: clip the predicted x_0 to [-1, 1]; without it as a model says."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """nll, rate-distortion: variance of the reverse steps; without it a model's own."""
    tolerance: float | None = None
    """ode: error that the solver allows in a step (0.001)."""
    sigma_min: float | None = None
    """ode: noise where the path starts, in units of [-1, 1] (0.003)."""
    repeats: int | None = None
    """ode: dequantisations of each image (1)."""
    sampler: str = ""
    """Samples: how they are drawn; without it as `undye sample` does, as for the next two."""
    sampler_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Samples: the sampler's options, such as eta=1 or clip=false."""
    sample_steps: int | None = None
    """Samples: steps of the grid."""
    sample_grid: str = ""
    """Samples: how the steps are spread over the times."""
    guidance: float | None = None
    """Samples: classifier-free guidance (1), for models with labels, which draw sample i of class i mod K."""
    samples: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """Samples: keep them in this folder; without it in the cache. What is there already is checked, not drawn again."""
    features: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = ""
    """fid and its kin: what they are measured in: fashion-mnist, inception, inception:FILE, a file of `undye features`,
    an .onnx file; without it the one that ships for the data set."""
    held_out: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """memorization: images that the model was not trained on; without it the data's test split, if it has one."""
    split: Literal["train", "test"] = "test"
    """Which images of a data set that has both."""
    labels: Literal["none", "folders", "auto"] | None = None
    """nll, rate-distortion, ode: give the model the images' classes: none, from sub-folder names, or those that the
    data bring. fid-per-class: where the classes of folders come from."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop all images to this; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    seed: int = 0
    """Names the images that are drawn, and all noise: sample i of every model begins with the same."""
    batch_size: int | None = None
    """Network inputs at a time; without it chosen by their size."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


Needs = tuple[dict[str, Any], tuple[str, ...]]
"""Settings by the names of their flags, None where not given, and the metrics of which they need one."""


def given(a: MeasureOptions, models: Sequence[str], *more: Needs) -> dict[str, Any]:
    """The arguments of `undye.evaluate` and `undye.compare` that were given, after all that is cheap to check.

    Args:
        a: the flags.
        models: what is measured.
        more: flags that one of the commands has alone.

    Raises:
        UserError: for no data, a model that is not there, a report that cannot be written, a setting that none of the
            metrics has a use for.
    """
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    size = parse_image_size(a.image_size) if a.image_size else None
    for model in models:
        if not Path(model).exists() and model not in NAMED_DATASETS and not model.startswith(HUB):
            raise UserError(f"no model at {model}: give a run folder or a checkpoint folder, or images")
    if a.out:
        _check_out(Path(a.out))
    settings = _settings(a, more)
    _check_drawn(a, models)
    return {
        **settings, "n": a.n, "out": a.out or None, "seed": a.seed, "split": a.split, "image_size": size,
        "channels": a.channels, "upscale": a.upscale, "batch_size": a.batch_size, "weights": a.weights,
    }  # fmt: skip


def _check_drawn(a: MeasureOptions, models: Sequence[str]) -> None:
    """Raise a UserError for a setting of models where there is none."""
    of_models = {
        "sampler": a.sampler, "sample-steps": a.sample_steps, "sample-grid": a.sample_grid, "guidance": a.guidance,
        "samples": a.samples, "batch-size": a.batch_size, "set": a.set, "weights raw": a.weights == "raw",
    }  # fmt: skip
    flags = [flag for flag, value in of_models.items() if value not in ("", None, False, ())]
    if not flags:
        return
    from undye.metrics.subject import is_images

    if models and all(map(is_images, models)):
        holds = f"{models[0]} holds" if len(models) == 1 else f"{', '.join(models)} hold"
        raise UserError(f"--{flags[0]} is for models, and {holds} images: leave it out")


def _settings(a: MeasureOptions, more: Sequence[Needs]) -> dict[str, Any]:
    chain = {"exact": a.exact or None, "steps": a.steps, "grid": a.grid, "clip": a.clip, "variance": a.variance}
    path = {"tolerance": a.tolerance, "sigma_min": a.sigma_min, "repeats": a.repeats}
    drawn = {
        "sampler": sampler_of(a.sampler, a.sampler_options), "sample_steps": a.sample_steps,
        "sample_grid": a.sample_grid or None, "guidance": a.guidance, "samples": a.samples or None,
    }  # fmt: skip
    found: dict[str, Any] = {}
    for settings, metrics in (
        (chain, BOUND), ({"draws": a.draws}, ("nll",)), (path, ("ode",)),
        ({"labels": a.labels}, (*BOUND, "ode", "fid-per-class")), (drawn, FROM_SAMPLES),
        ({"features": a.features or None}, IN_FEATURES), ({"held_out": a.held_out or None}, ("memorization",)), *more,
    ):  # fmt: skip
        known = {k: v for k, v in settings.items() if v is not None}
        if known and not set(metrics) & set(a.metrics):
            flag = next(iter(known)).replace("_", "-")
            raise UserError(
                f"--{flag} is for the metric{'s' if len(metrics) > 1 else ''} {', '.join(metrics)}: leave it out"
            )
        found |= known
    if found.pop("exact", False) or "rate-distortion" in a.metrics:
        if a.draws is not None:
            raise UserError(
                "--draws is for nll without --exact and rate-distortion, which take every step: leave it out"
            )
        found["draws"] = None
    return found


def run(
    a: MeasureOptions, call: Callable[..., dict[str, Any]], arguments: dict[str, Any]
) -> tuple[dict[str, Any], UserError | None]:
    """Measure, with bars, in as many processes as there are.

    Args:
        a: the flags.
        call: `undye.evaluate` or `undye.compare`, of `arguments`.
        arguments: of `given`.

    Returns:
        The report, and the error to end with where it is unfinished; nothing in other processes than the main one.

    Raises:
        UserError: if nothing could be measured.
    """
    from undye.checkpoint.imported import Settings
    from undye.device import set_threads
    from undye.metrics.findings import UnfinishedReport
    from undye.world import World

    set_threads(a.threads or None)
    world = World(a.device or None)
    try:
        with Bars(quiet=not world.is_main) as bars:
            return call(
                **arguments, device=str(world.device), progress=bars, world=world, settings=Settings.parse(a.set).values
            ), None
    except UnfinishedReport as error:
        return error.report, error


def _check_out(out: Path) -> None:
    """Catch an unusable name before the work rather than after it."""
    if out.suffix.lower() != ".json" or out.is_dir():
        raise UserError(f"cannot write the report to {out}: give a .json file")
    parents = [p for p in out.absolute().parents if p.exists()]
    if not parents[0].is_dir():
        raise UserError(f"cannot write the report to {out}: {parents[0]} is not a folder")
    if not os.access(parents[0], os.W_OK) or str(parents[0]).startswith(("/proc", "/sys")):
        raise UserError(f"cannot write the report to {out}: {parents[0]} is not writable")


def sampler_of(name: str, options: Sequence[str]) -> Any:
    """A sampler by name with its options, KEY=VALUE; None where nothing is asked for.

    Raises:
        UserError: for an unknown name or option.
    """
    if not name:
        if options:
            raise UserError("--sampler-options are those of a --sampler: say which")
        return None
    from undye.sampling import with_options

    return with_options(name, **dict(_option(text) for text in options))


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"cannot read the option {text!r}: give KEY=VALUE, such as eta=1")
    try:
        return key.replace("-", "_"), json.loads(value)
    except ValueError:
        return key.replace("-", "_"), value
