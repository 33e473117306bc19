"""`undye.evaluate`: the numbers of a model on a data set, with the recipe that makes them again."""

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import nn

from undye.checkpoint.native import WeightsName
from undye.device import pick_device
from undye.metrics.eval_data import EvalData, Images, LabelsRule
from undye.metrics.extractor import FeatureExtractor
from undye.metrics.findings import Findings, ProgressOf
from undye.metrics.measuring import Outputs, measure
from undye.metrics.requests import METRICS, EvalRequest
from undye.metrics.subject import Model, Subject
from undye.metrics.versions import versions
from undye.samplers import Sampler
from undye.world import World

__all__ = ["METRICS", "EvalRequest", "evaluate"]


def evaluate(
    model: Model,
    data: Images,
    metrics: str | Sequence[str] = ("nll",),
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
    pairs: str | PathLike[str] | None = None,
    neighbours: str | PathLike[str] | None = None,
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
    """Measure a model on a data set: what `undye eval` does.

    Args:
        model: a run folder, a checkpoint folder, another project's model, or a model; or images that were made
            elsewhere: a folder, an archive, an .npz or .npy file, an array, or a named data set (its training images).
        data: a name, a folder of images, an .npz or .npy file, or an array; see `undye.load_images`.
        metrics: of a model and images: nll (the variational bound), rate-distortion, ode (the probability-flow ODE's
            likelihood). Of samples beside `data`, in features: fid (with FID-infinity), kid, is (Inception Score), pr
            (precision, recall, density, coverage), sfid, fid-per-class. Of samples beside the training images:
            memorization (are they nearer than images which the model has not seen?), neighbours.
        n: number of samples, and of images that the likelihoods look at; None: 10,000 samples where a metric in
            features is asked for, else 1,000. Of images in place of a model: all of them.
        draws: times drawn for each image by nll; None: every time.
        steps: length of the chain of nll and rate-distortion; None: all T.
        grid: how its steps are spread: "uniform" or "quadratic".
        clip: of nll and rate-distortion: clip the predicted x_0; None: as the model says.
        variance: of nll and rate-distortion: of the reverse steps; None: the model's.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts, in the model's units.
        repeats: dequantisations of each image by ode.
        sampler: of the samples; a name, or a Sampler with its options; None: as `undye.sample`, as the next two.
        sample_steps: of the samples.
        sample_grid: how those are spread.
        guidance: of the samples of a model with classes, whose sample i is of class i mod K.
        features: the extractor: a name, a file or a module, see `undye.metrics.extractor.load_extractor`; None: the
            one that ships for this data set.
        held_out: for memorization: images like those that the model was trained on, not among them; None: the data's
            test split, where it has one. `data` is then what it was trained on (its training split).
        pairs: for memorization: a PNG of the nearest samples, each beside its training image.
        neighbours: for neighbours: a PNG of the first samples, each with its nearest training images.
        samples: a folder that keeps the samples, below the hash of their recipe; None: undye's cache folder. Samples
            that are there already are checked and not drawn again. For a model that undye has no name for (a module of
            your own) nothing is kept.
        out: a .json file that has the report, as far as it goes, after each metric.
        seed: names the images that are drawn, and all noise.
        split: of the data, for likelihoods and as the reference set.
        labels: give the model the images' classes: none, those of sub-folders, or those that the data bring.
            fid-per-class takes what the data bring for "none".
        image_size: (height, width) to resize the images to; None: as they are.
        channels: 1 or 3; None: 3 if any image has colour.
        upscale: enlarge images that are smaller than `image_size` instead of leaving them out.
        batch_size: network inputs at a time.
        device: where to compute, for a model that is loaded here; None: the best there is.
        progress: called with (what is done, done, total).
        world: the processes that share the sampling and the likelihoods; None: this one does it alone.
        weights: of a model that is loaded here, see `undye.load`.
        settings: what another project's model does not say, see `undye.load`.

    Returns:
        Plain data: `model`, `data`, `metrics` (one entry each) and how they were made, ready for JSON. Of several
        processes the main one has them, the others have nothing.

    Raises:
        UserError: for a model, data or settings that cannot be used; nothing has been drawn then.
        UnfinishedReport: if a metric fails after others have been measured; it has the report of those.
    """
    request = EvalRequest(
        metrics=(metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics)), n=n, draws=draws,
        steps=steps, grid=grid, clip=clip, variance=variance, tolerance=tolerance, sigma_min=sigma_min,
        repeats=repeats, sampler=sampler, sample_steps=sample_steps, sample_grid=sample_grid, guidance=guidance,
        seed=seed, batch_size=batch_size,
    )  # fmt: skip
    images = EvalData(
        data=data, held_out=held_out, split=split, labels=labels, image_size=image_size, channels=channels,
        upscale=upscale, progress=progress,
    )  # fmt: skip
    world = world or World.alone()
    subject = Subject.find(model, pick_device(device), weights, settings)
    found = Findings(
        {**versions(), "model": subject.about}, None if out is None else Path(out), alone=world.size == 1
    )  # fmt: skip
    outputs = Outputs(samples=_path(samples), pairs=_path(pairs), neighbours=_path(neighbours))
    measure(subject, images, request, found, features=features, outputs=outputs, world=world, progress=progress)
    return found.finish() if world.is_main else {}


def _path(path: str | PathLike[str] | None) -> Path | None:
    return None if path is None else Path(os.fspath(path))
