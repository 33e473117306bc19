"""`undye.compare`: the same metrics of several models or sets of images, and whether their differences are real."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal

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
from undye.metrics.quality import LOWER_IS_BETTER
from undye.metrics.requests import OF_SAMPLES, EvalRequest
from undye.metrics.subject import Model, Subject, checkpoint_of, is_images
from undye.metrics.versions import versions
from undye.samplers import Sampler
from undye.world import World

LIKELIHOODS = ("nll", "ode")
"""Those that are one number for each image: the rate-distortion curve is not."""
COMPARED = (*LIKELIHOODS, *(m for m in OF_SAMPLES if m != "fid-per-class"))


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
        data: the reference set, and the images that the likelihoods look at.
        metrics: any of nll, ode (for models only), fid, kid, is, pr, sfid.
        n: samples of each, and images that the likelihoods look at; None: 10,000 samples, all images of a set, and
            1,000 images for the likelihoods.
        draws: see `undye.evaluate`, as all that follow: times drawn for each image by nll; None: every time.
        steps: length of the chain of nll.
        grid: how its steps are spread.
        clip: of nll: clip the predicted x_0.
        variance: of nll: of the reverse steps.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts.
        repeats: dequantisations of each image by ode.
        sampler: of the samples.
        sample_steps: of the samples.
        sample_grid: how those are spread.
        guidance: of models with classes.
        features: the extractor, for metrics of samples.
        samples: a folder that keeps the samples.
        out: a .json file for the report, written after each model.
        seed: names the noise.
        split: of the reference set.
        labels: give the models the images' classes.
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
        the `best` one and for every model its `value`, and as `to_best` and `to_first` the difference with its
        interval, p-value, whether it is `real`, and whether it is `paired`; None where there is no interval. And
        `failed`, where some could not be measured at all: why, by their names.

    Raises:
        UserError: for what cannot be used; nothing has been drawn then. Or if nothing could be measured.
        UnfinishedReport: if some of them, or a metric of some of them, failed; it has the report of all else.
    """
    asked = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    if len(models) < 2:
        raise UserError("a comparison needs at least two models or sets of images")
    if wrong := [m for m in asked if m not in COMPARED]:
        raise UserError(f"models are compared by {', '.join(COMPARED)}, not by {wrong[0]}: ask undye eval for it")
    _check_there(models, asked)
    request = EvalRequest(
        metrics=asked, n=n, draws=draws, steps=steps, grid=grid, clip=clip, variance=variance, tolerance=tolerance,
        sigma_min=sigma_min, repeats=repeats, sampler=sampler, sample_steps=sample_steps, sample_grid=sample_grid,
        guidance=guidance, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    images = EvalData(
        data=data, split=split, labels=labels, image_size=image_size, channels=channels, upscale=upscale,
        progress=progress,
    )  # fmt: skip
    where, world = pick_device(device), world or World.alone()
    extractor = None
    if request.asks(*OF_SAMPLES):
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
    drawn: list[tuple[int, int]] = []
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
        drawn.append((draw, found.head.get("samples", found.head["data"])["n"]))
        if out is not None:
            _write(Path(out), _report(reports, replicates, drawn, failed))
    if not world.is_main:
        return {}
    if first is not None and not reports:
        raise first
    report = _report(reports, replicates, drawn, failed)
    if failures:
        raise UnfinishedReport(f"not measured: {'; '.join(failures)}", report)
    return report


def _check_there(models: Sequence[Model], asked: Sequence[str]) -> None:
    """Find a wrong path before the first model has drawn for an hour.

    Raises:
        UserError: for something that is neither a model nor images, or images that are asked for a likelihood.
    """
    of_models = [m for m in asked if m in LIKELIHOODS]
    for model, name in zip(models, _names(models), strict=True):
        if of_models and not isinstance(model, Denoiser) and is_images(model):
            raise UserError(
                f"{of_models[0]} is what a model says of images, and {name} holds images: leave it out, or compare "
                f"them by {', '.join(m for m in COMPARED if m not in LIKELIHOODS)}"
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
    reports: list[dict[str, Any]],
    replicates: list[dict[str, Replicates]],
    drawn: list[tuple[int, int]],
    failed: dict[str, str],
) -> dict[str, Any]:
    names = [report["name"] for report in reports]
    numbers = {}
    for number, lower in LOWER_IS_BETTER.items():
        have = [k for k, found in enumerate(replicates) if number in found]
        values = {k: _value(reports[k], number) for k in range(len(reports))}
        known = [k for k, v in values.items() if v is not None]
        if not known:
            continue
        best = min(known, key=lambda k: (values[k] or 0.0) * (1 if lower else -1))
        rows = []
        for k in known:
            against = {
                f"to_{which}": _difference(replicates[k][number], replicates[other][number], drawn[k], drawn[other])
                if k != other and {k, other} <= set(have)
                else None
                for which, other in (("best", best), ("first", known[0]))
            }
            rows.append({"name": names[k], "value": values[k], **against})
        numbers[number] = {"lower_is_better": lower, "best": names[best], "models": rows}
    return without_nan({**versions(), "models": reports, "numbers": numbers, **({"failed": failed} if failed else {})})


def _difference(a: Replicates, b: Replicates, of_a: tuple[int, int], of_b: tuple[int, int]) -> dict[str, Any]:
    return {**asdict(difference(a, b)), "paired": of_a == of_b}


def _value(report: dict[str, Any], number: str) -> float | None:
    metrics = report["metrics"]
    entry = metrics.get(number) or metrics.get("pr", {}).get(number)
    if entry is None:
        return None
    return entry["bits_per_dim"]["total"]["mean"] if number in LIKELIHOODS else entry["value"]


def _write(out: Path, report: dict[str, Any]) -> None:
    write_text(out, json.dumps(report, indent=2, allow_nan=False) + "\n")
