"""`undye.compare`: the same metrics of several models or sets of images, and whether their differences are real."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from undye.checkpoint.load import is_foreign
from undye.checkpoint.native import WeightsName
from undye.denoiser import Denoiser
from undye.device import pick_device
from undye.errors import UserError
from undye.files import write_text
from undye.metrics.eval_data import EvalData, Images, LabelsRule
from undye.metrics.extractor import FeatureExtractor, default_extractor, help_for, load_extractor
from undye.metrics.findings import Findings, ProgressOf, UnfinishedReport, without_nan
from undye.metrics.intervals import Replicates, difference
from undye.metrics.measuring import Outputs, measure
from undye.metrics.numbers import READERS, Number, numbers_of
from undye.metrics.requests import FROM_SAMPLES, IN_FEATURES, OF_MODEL, EvalRequest
from undye.metrics.subject import Model, Subject, checkpoint_of, is_images
from undye.metrics.versions import versions
from undye.samplers import Sampler
from undye.world import World


def compare(
    models: Sequence[Model],
    data: Images,
    metrics: str | Sequence[str] = ("fid", "kid"),
    *,
    n: int | None = None,
    draws: int | None = 16,
    steps: int | None = None,
    grid: str = "uniform",
    clip: bool | None = None,
    variance: str | None = None,
    tolerance: float = 1e-3,
    sigma_min: float = 3e-3,
    repeats: int = 1,
    sampler: str | Sampler | None = None,
    sample_steps: int | None = None,
    sample_grid: str | None = None,
    guidance: float = 1.0,
    features: str | PathLike[str] | nn.Module | FeatureExtractor | None = None,
    held_out: Images | None = None,
    samples: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    split: Literal["train", "test"] = "test",
    labels: LabelsRule = "none",
    image_size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    upscale: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
    progress: ProgressOf | None = None,
    world: World | None = None,
    weights: WeightsName = "ema",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure several models or sets of images in the same manner: what `undye compare` does.

    Models draw with the same seeds, so sample i of each begins with the same noise, and the bootstrap takes the same
    samples of each (a paired comparison, where they have the same n); sets of images are compared unpaired. Likelihoods
    are of the same images, with the same draws and noise: the bootstrap takes the same images of each model. The
    difference to the best one is judged as if the best had been known before: among many, a close second is nearer
    than it looks.

    Args:
        models: at least two of what `undye.evaluate` takes.
        data: the reference set, and the images that the likelihoods look at; for memorization and neighbours what the
            models were trained on (its training split).
        metrics: any that `undye.evaluate` has. Of models only: nll, rate-distortion (the bits at which an image's
            error has fallen to 20, 10, 5 and 2 of 255), ode.
        n: samples of each, and images that the likelihoods look at; None: 10,000 samples where a metric in features is
            asked for, else 1,000; all images of a set; 1,000 images for the likelihoods.
        draws: see `undye.evaluate`, as all that follow: times drawn for each image by nll; None: every time.
        steps: length of the chain of nll and rate-distortion.
        grid: how its steps are spread.
        clip: of nll and rate-distortion: clip the predicted x_0.
        variance: of nll and rate-distortion: of the reverse steps.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts.
        repeats: dequantisations of each image by ode.
        sampler: of the samples.
        sample_steps: of the samples.
        sample_grid: how those are spread.
        guidance: of models with classes.
        features: the extractor, for metrics in features.
        held_out: for memorization: images like those that the models were trained on, not among them.
        samples: a folder that keeps the samples.
        out: a .json file for the report, written after each model and at the end.
        seed: names the noise.
        split: of the reference set.
        labels: give the models the images' classes; fid-per-class takes what the data bring for "none".
        image_size: (height, width) to resize images to.
        channels: 1 or 3.
        upscale: enlarge smaller images.
        batch_size: network inputs at a time.
        device: where to compute.
        progress: called with (what is done, done, total).
        world: the processes that share the sampling.
        weights: of the models.
        settings: of other projects' models.

    Returns:
        Plain data: `models`, a report of `undye.evaluate` each with its `name`; `numbers`, by their names, each with
        its `metric`, whether `lower_is_better` (None: neither way is), the `best` one (None then) and for every model
        its `value`, and as `to_best` and `to_first` the difference with its interval, p-value, whether it is `real`,
        and whether it is `paired`; None where there is no interval, or values do not compare (`otherwise` says why).
        And `failed`, where some could not be measured at all: why, by their names.

    Raises:
        UserError: for what cannot be used; nothing has been drawn then. Or if nothing could be measured.
        UnfinishedReport: if some of them, or a metric of some of them, failed; it has the report of all else.
    """
    asked = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    if len(models) < 2:
        raise UserError("a comparison needs at least two models or sets of images")
    request = EvalRequest(
        metrics=asked, n=n, draws=draws, steps=steps, grid=grid, clip=clip, variance=variance, tolerance=tolerance,
        sigma_min=sigma_min, repeats=repeats, sampler=sampler, sample_steps=sample_steps, sample_grid=sample_grid,
        guidance=guidance, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    _check_there(models, asked)
    images = EvalData(
        data=data, held_out=held_out, split=split, labels=labels, image_size=image_size, channels=channels,
        upscale=upscale, progress=progress,
    )  # fmt: skip
    where, world = pick_device(device), world or World.alone()
    extractor = None
    if request.asks(*IN_FEATURES):
        chosen = features if features is not None else default_extractor(images.name)
        if chosen is None:
            raise UserError(help_for(images.name))
        extractor = load_extractor(chosen, where)
    outputs = Outputs(samples=None if samples is None else Path(samples))
    names = _names(models)
    reports: list[dict[str, Any]] = []
    replicates: list[dict[str, Replicates]] = []
    failures: list[str] = []
    failed: dict[str, str] = {}
    first: UserError | None = None
    drawn: list[int] = []
    for k, (model, name) in enumerate(zip(models, names, strict=True)):
        own = is_images(model) if not isinstance(model, Denoiser) else False
        draw = k + 1 if own else 0
        try:
            subject = Subject.find(model, where, "ema" if own else weights, None if own else settings)
            found = Findings({**versions(), "name": name, "model": subject.about}, alone=world.size == 1)
            measured = measure(
                subject, images, request, found, features=extractor, outputs=outputs, world=world,
                progress=progress, draw_number=draw,
            )  # fmt: skip
        except UserError as error:
            if world.size > 1:
                raise  # the other processes would wait for this one
            first, failed[name] = first or error, str(error)
            failures.append(f"{name}: {error}")
            continue
        if not world.is_main:
            continue
        failures += [f"{metric} of {name}: {why}" for metric, why in found.failed.items()]
        replicates.append(measured)
        reports.append(found.report())
        drawn.append(draw)
        if out is not None:
            _write(Path(out), _report(reports, replicates, drawn, failed))
    if not world.is_main:
        return {}
    if first is not None and not reports:
        raise first
    report = _report(reports, replicates, drawn, failed)
    if out is not None:
        _write(Path(out), report)
    if failures:
        raise UnfinishedReport(f"not measured: {'; '.join(failures)}", report)
    return report


def _check_there(models: Sequence[Model], asked: Sequence[str]) -> None:
    """Find a wrong path before the first model has drawn for an hour.

    Raises:
        UserError: for something that is neither a model nor images, or images that are asked for a likelihood.
    """
    of_models = [m for m in asked if m in OF_MODEL]
    for model, name in zip(models, _names(models), strict=True):
        if of_models and not isinstance(model, Denoiser) and is_images(model):
            raise UserError(
                f"{of_models[0]} is what a model says of images, and {name} holds images: leave it out, or compare "
                f"them by {', '.join(FROM_SAMPLES)}"
            )
        if not isinstance(model, Denoiser) and not is_images(model):
            path = Path(str(model))
            if not is_foreign(path):
                checkpoint_of(path)


def _names(models: Sequence[Model]) -> list[str]:
    """What the table calls them; numbered where two would be called the same."""
    plain = [
        str(m) if isinstance(m, (str, PathLike)) else "model" if isinstance(m, Denoiser) else "array" for m in models
    ]
    return [name if plain.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(plain)]


def _report(
    reports: list[dict[str, Any]], replicates: list[dict[str, Replicates]], drawn: list[int], failed: dict[str, str]
) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for metric in READERS:
        read = [numbers_of(metric, report["metrics"].get(metric)) for report in reports]
        for name in dict.fromkeys(name for each in read for name in each):
            sides = [
                _Side(report["name"], each[name], found.get(name), draw)
                for report, each, found, draw in zip(reports, read, replicates, drawn, strict=True)
                if name in each
            ]
            numbers[name] = {"metric": metric, **_compared(sides)}
    return without_nan({**versions(), "models": reports, "numbers": numbers, **({"failed": failed} if failed else {})})


@dataclass(frozen=True)
class _Side:
    """A model's number and its replicates, made with the draw `draw`."""

    name: str
    number: Number
    replicates: Replicates | None
    draw: int


def _compared(sides: list[_Side]) -> dict[str, Any]:
    """One number of those that have it: the best, and each one's difference to it and to the first."""
    first, lower = sides[0], sides[0].number.lower_is_better
    alike = all(side.number.beside == first.number.beside for side in sides)
    best = None
    if alike and lower is not None:
        best = min(sides, key=lambda side: (side.number.value or 0.0) * (1 if lower else -1))
    rows = [
        {
            "name": side.name, "value": side.number.value, "to_best": None if best is None else _difference(side, best),
            "to_first": _difference(side, first),
        }
        for side in sides
    ]  # fmt: skip
    return {
        "lower_is_better": lower, "best": None if best is None else best.name,
        **({} if alike else {"otherwise": first.number.otherwise}), "models": rows,
    }  # fmt: skip


def _difference(a: _Side, b: _Side) -> dict[str, Any] | None:
    if a is b or a.number.beside != b.number.beside or a.replicates is None or b.replicates is None:
        return None
    if not (np.isfinite(a.replicates.values).all() and np.isfinite(b.replicates.values).all()):
        return None  # a resample of very few images may hold a single one many times
    paired = (a.draw, a.number.resampled) == (b.draw, b.number.resampled)
    return {**asdict(difference(a.replicates, b.replicates)), "paired": paired}


def _write(out: Path, report: dict[str, Any]) -> None:
    write_text(out, json.dumps(report, indent=2, allow_nan=False) + "\n")
