"""`undye eval MODEL --data ...`."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from undye.cli.bars import Bars
from undye.cli.eval_table import table
from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.data.names import HUB, NAMED_DATASETS, parse_image_size
from undye.errors import UserError

IN_FEATURES = {"fid", "kid", "is", "pr", "sfid", "fid-per-class", "neighbours"}


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """The flags of `undye eval`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder or another project's model. Or images that were made elsewhere: a folder, an
    archive, an .npz / .npy file, or a named data set (its training images)."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """What to measure on and beside: a named data set (its test images), a folder of images, or an .npz / .npy file."""
    metrics: tuple[
        Literal[
            "nll", "rate-distortion", "ode", "memorization", "fid", "kid", "is", "pr", "sfid", "fid-per-class",
            "neighbours",
        ],
        ...,
    ] = ("nll",)  # fmt: skip
    """What a model says of images: nll (the variational bound in bits/dim), rate-distortion (the paper's Table 4), ode
    (the probability-flow ODE's likelihood, an independent bound). Samples beside the data, in features: fid (and
    FID-infinity), kid, is (Inception Score), pr (precision, recall, density, coverage), sfid, fid-per-class. Samples
    beside the training images: memorization (are they nearer than unseen images?), neighbours."""
    out: Annotated[str, tyro.conf.arg(metavar="REPORT.json")] = ""
    """Also write everything, with how it was made, as JSON."""
    card: bool = False
    """Also write the numbers into the model card (README.md) of the checkpoint."""
    n: int | None = None
    """Samples of the model, and images of the data for the likelihoods; without it 10,000 samples for metrics in
    features, else 1,000."""
    exact: bool = False
    """Every term of the bound, all T of them, instead of some drawn for each image."""
    draws: int | None = None
    """nll: terms drawn for each image, where not --exact (16)."""
    steps: int | None = None
    """nll, rate-distortion: length of the chain; without it all T."""
    grid: Literal["uniform", "quadratic"] | None = None
    """nll, rate-distortion: how a shorter chain's steps are spread (uniform)."""
    clip: bool | None = None
    """nll, rate-distortion: clip the predicted x_0 to [-1, 1]; without it as the model says."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """nll, rate-distortion: variance of the reverse steps; without it the model's own."""
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
    neighbours: Annotated[str, tyro.conf.arg(metavar="NEAREST.png")] = ""
    """neighbours: also write the first samples, each with its nearest training images."""
    held_out: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """memorization: images that the model was not trained on; without it the data's test split, if it has one."""
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS.png")] = ""
    """memorization: also write the nearest samples, each beside its training image."""
    split: Literal["train", "test"] = "test"
    """Which images of a data set that has both."""
    labels: Literal["none", "folders", "auto"] = "none"
    """Give the model the images' classes: none, from sub-folder names, or those that the data bring."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop the images to this; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    seed: int = 0
    """Names the images that are drawn, and all noise."""
    batch_size: int | None = None
    """Network inputs at a time; without it chosen by their size."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(EvalArgs, joined(args), "undye eval", "Measure how good a model is.")
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    size = parse_image_size(a.image_size) if a.image_size else None
    if not Path(a.model).exists() and a.model not in NAMED_DATASETS and not a.model.startswith(HUB):
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder, or images")
    if a.out:
        check_out(Path(a.out))
    for picture in filter(None, (a.pairs, a.neighbours)):
        if Path(picture).suffix.lower() != ".png":
            raise UserError(f"cannot write a picture to {picture}: give a .png file")
    given = _given(a)
    if a.card:
        _check_card(a)

    from undye.checkpoint.imported import Settings
    from undye.device import set_threads
    from undye.metrics.evaluate import evaluate
    from undye.metrics.findings import UnfinishedReport
    from undye.world import World

    set_threads(a.threads or None)
    world = World(a.device or None)
    unfinished: UnfinishedReport | None = None
    try:
        with Bars(quiet=not world.is_main) as bars:
            report = evaluate(
                a.model, a.data, a.metrics, n=a.n, **given, out=a.out or None, seed=a.seed, split=a.split,
                labels=a.labels, image_size=size, channels=a.channels, upscale=a.upscale, batch_size=a.batch_size,
                device=str(world.device), progress=bars, world=world, weights=a.weights,
                settings=Settings.parse(a.set).values,
            )  # fmt: skip
    except UnfinishedReport as error:
        report, unfinished = error.report, error
    if not report:
        return 0  # another process has it all
    print("\n".join(table(report)))
    for path in filter(None, (a.out, a.pairs, a.neighbours)):
        if Path(path).exists():
            print(path)
    if a.card:
        from undye.checkpoint.native import CARD, add_measurements, find_checkpoint
        from undye.metrics.record import measurements

        folder = find_checkpoint(report["model"]["checkpoint"])
        add_measurements(folder, measurements(report))
        print(folder / CARD)
    if unfinished is not None:
        raise unfinished
    return 0


def _check_card(a: EvalArgs) -> None:
    """Raise a UserError unless there will be a line for a card, and a card."""
    if a.weights != "ema":
        raise UserError("--card is about the EMA weights: leave --weights raw out, or --card")
    from undye.checkpoint.card import read_measurements
    from undye.checkpoint.load import is_foreign
    from undye.checkpoint.native import find_checkpoint
    from undye.metrics.subject import is_images

    if set(a.metrics) == {"rate-distortion"}:
        raise UserError("--card is for numbers, not for a curve: ask for nll or ode too, or leave it out")
    if is_images(a.model):
        raise UserError(f"--card is for models, and {a.model} holds images: leave it out")
    if is_foreign(Path(a.model)):
        raise UserError(f"--card is for undye's own checkpoints: `undye import {a.model} --out DIR` makes one")
    read_measurements(find_checkpoint(a.model))


def _given(a: EvalArgs) -> dict[str, Any]:
    """The settings that were given, each of which must have something to set.

    Raises:
        UserError: for one that has not.
    """
    chain = {"steps": a.steps, "grid": a.grid, "clip": a.clip, "variance": a.variance}
    path = {"tolerance": a.tolerance, "sigma_min": a.sigma_min, "repeats": a.repeats}
    copies = {"held_out": a.held_out or None, "pairs": a.pairs or None}
    drawn = {
        "sampler": sampler_of(a.sampler, a.sampler_options), "sample_steps": a.sample_steps,
        "sample_grid": a.sample_grid or None, "guidance": a.guidance, "samples": a.samples or None,
    }  # fmt: skip
    features, nearest = {"features": a.features or None}, {"neighbours": a.neighbours or None}
    bound = {"nll", "rate-distortion"} & set(a.metrics)
    samples = {*IN_FEATURES, "memorization"} & set(a.metrics)
    for settings, metrics, there in (
        (chain, "nll and rate-distortion", bound),
        (path, "ode", "ode" in a.metrics),
        (copies, "memorization", "memorization" in a.metrics),
        (drawn, f"memorization, {', '.join(sorted(IN_FEATURES))}", samples),
        (features, ", ".join(sorted(IN_FEATURES)), IN_FEATURES & set(a.metrics)),
        (nearest, "neighbours", "neighbours" in a.metrics),
    ):
        if not there and (unused := [k for k, v in settings.items() if v is not None]):
            raise UserError(f"--{unused[0].replace('_', '-')} is for the metrics {metrics}: leave it out")
    exact = a.exact or "rate-distortion" in a.metrics
    if a.draws is not None and (exact or "nll" not in a.metrics):
        raise UserError("--draws is for nll without --exact and rate-distortion, which take every step: leave it out")
    if a.exact and not bound:
        raise UserError("--exact is for the metrics nll and rate-distortion: leave it out")
    draws = {"draws": None} if exact else {} if a.draws is None else {"draws": a.draws}
    return {
        **{k: v for k, v in {**chain, **path, **copies, **drawn, **features, **nearest}.items() if v is not None},
        **draws,
    }


def check_out(out: Path) -> None:
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
