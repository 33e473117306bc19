"""`undye.evaluate`: the numbers of a model on a data set, with the recipe that makes them again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from undye import keyed
from undye.checkpoint.load import is_foreign, load
from undye.checkpoint.native import WeightsName, find_checkpoint, read_about
from undye.data import load_images
from undye.data.source import ImageSource
from undye.denoiser import Denoiser
from undye.device import pick_device
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.inputs import check_shape, check_variance
from undye.metrics.memorization import closest_pairs, memorization
from undye.metrics.nll import BitsPerDim, Estimate, bits_per_dim
from undye.metrics.ode_nll import OdeBitsPerDim, check_settings, ode_bits_per_dim
from undye.pictures import enlarge, save_png
from undye.pictures import make_grid as tile
from undye.samplers.grid import make_grid
from undye.sampling import SampleRequest
from undye.sharding import shared_sample
from undye.structure import unstructure
from undye.world import World

METRICS = ("nll", "rate-distortion", "ode", "memorization")
ProgressOf = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What to measure, and how.

    Attributes:
        metrics: any of `METRICS`.
        n: images, drawn from the data without replacement; all of them where there are fewer.
        draws: times drawn for each image by nll; None: every time (which rate-distortion always takes).
        steps: length of the chain of nll and rate-distortion; None: all T.
        grid: how its steps are spread.
        clip: clip the predicted x_0; None: as the model says.
        variance: of the reverse steps; None: the model's.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts.
        repeats: dequantisations of each image by ode.
        sample_steps: DDIM steps of each of memorization's samples; None: 50, at most T.
        seed: names the images that are drawn, and all noise.
        batch_size: network inputs at a time; None: chosen from their size.
    """

    metrics: tuple[str, ...] = ("nll",)
    n: int = 1000
    draws: int | None = 16
    steps: int | None = None
    grid: str = "uniform"
    clip: bool | None = None
    variance: str | None = None
    tolerance: float = 1e-3
    sigma_min: float = 3e-3
    repeats: int = 1
    sample_steps: int | None = None
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check what does not need the model."""
        if not self.metrics:
            raise UserError(f"no metric is asked for: choose from {', '.join(METRICS)}")
        if unknown := [m for m in self.metrics if m not in METRICS]:
            raise UserError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
        if self.n < 1:
            raise UserError(f"the number of images must be at least 1, got {self.n}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed must lie in 0..2^63-1, got {self.seed}")
        if self.draws is not None and self.draws < 1:
            raise UserError(f"the number of draws must be at least 1, got {self.draws}")


def evaluate(
    model: str | PathLike[str] | Denoiser,
    data: str | PathLike[str] | np.ndarray,
    metrics: str | Sequence[str] = ("nll",),
    *,
    n: int = 1000,
    draws: int | None = 16,
    steps: int | None = None,
    grid: str = "uniform",
    clip: bool | None = None,
    variance: str | None = None,
    tolerance: float = 1e-3,
    sigma_min: float = 3e-3,
    repeats: int = 1,
    sample_steps: int | None = None,
    held_out: str | PathLike[str] | np.ndarray | None = None,
    pairs: str | PathLike[str] | None = None,
    seed: int = 0,
    split: Literal["train", "test"] = "test",
    labels: Literal["auto", "folders", "none"] = "none",
    image_size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    upscale: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
    progress: ProgressOf | None = None,
    world: World | None = None,
    weights: WeightsName = "ema",
) -> dict[str, Any]:
    """Measure a model on a data set: what `undye eval` does.

    Args:
        model: a run folder, a checkpoint folder, or a model.
        data: a name, a folder of images, an .npz or .npy file, or an array; see `undye.load_images`.
        metrics: nll (the variational bound), rate-distortion, ode (the probability-flow ODE's likelihood), memorization
            (are `n` samples nearer to the training images than images which the model has not seen?).
        n: number of images.
        draws: times drawn for each image by nll; None: every time.
        steps: length of the chain of nll and rate-distortion; None: all T.
        grid: how its steps are spread: "uniform" or "quadratic".
        clip: clip the predicted x_0; None: as the model says.
        variance: of the reverse steps; None: the model's.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts, in the model's units.
        repeats: dequantisations of each image by ode.
        sample_steps: DDIM steps of each of memorization's samples; None: 50, at most T.
        held_out: for memorization: images like those that the model was trained on, not among them; None: the data's
            test split, where it has one. `data` is then what it was trained on (its training split).
        pairs: for memorization: a PNG of the nearest samples, each beside its training image.
        seed: names the images that are drawn, and all noise.
        split: of the data, for the other metrics.
        labels: give the model the images' classes: none, those of sub-folders, or those that the data bring.
        image_size: (height, width) to resize the images to; None: as they are.
        channels: 1 or 3; None: 3 if any image has colour.
        upscale: enlarge images that are smaller than `image_size` instead of leaving them out.
        batch_size: network inputs at a time.
        device: where to compute, for a model that is loaded here; None: the best there is.
        progress: called with (metric, done, total).
        world: the processes that share the work; None: this one does it alone.
        weights: of a model that is loaded here, see `undye.load`.

    Returns:
        Plain data: `model`, `data`, `metrics` (one entry each) and how they were made, ready for JSON. Of several
        processes the main one has them, the others have nothing.

    Raises:
        UserError: for a model, data or settings that cannot be used.
    """
    request = EvalRequest(
        metrics=(metrics,) if isinstance(metrics, str) else tuple(metrics), n=n, draws=draws, steps=steps, grid=grid,
        clip=clip, variance=variance, tolerance=tolerance, sigma_min=sigma_min, repeats=repeats, seed=seed,
        batch_size=batch_size, sample_steps=sample_steps,
    )  # fmt: skip
    about: dict[str, Any] = {"checkpoint": None}
    if isinstance(model, Denoiser):
        denoiser = model
    else:
        path = Path(model)
        folder = path if is_foreign(path) else find_checkpoint(path)
        known = {} if is_foreign(path) else read_about(folder)
        denoiser, about = load(folder, pick_device(device), weights=weights), {"checkpoint": str(folder), **known}
    world = world or World.alone()

    def images_of(what: Any, part: Literal["train", "test"]) -> ImageSource:
        return load_images(
            what, split=part, image_size=image_size, channels=channels, labels=labels, upscale=upscale,
            progress=None if progress is None else lambda done, total: progress("loading", done, total),
        )  # fmt: skip

    copies = None
    others = tuple(m for m in request.metrics if m != "memorization")
    if len(others) < len(request.metrics):
        train, unseen = images_of(data, "train"), images_of(data if held_out is None else held_out, "test")
        if held_out is None and train.name == unseen.name:
            raise UserError("memorization compares with images that the model was not trained on: give --held-out")
        copies = measure_memorization(denoiser, train, unseen, request, world, progress, pairs)
    found: dict[str, Any] = {}
    if others:
        found = measure(denoiser, images_of(data, split), replace(request, metrics=others), progress, world)
    if not world.is_main:
        return {}
    if copies is not None:
        about_data, result = copies
        found = {"data": found.get("data", about_data), "metrics": {**found.get("metrics", {}), "memorization": result}}
    return {
        "undye": _version(),
        "model": {
            **about,
            "weights": weights if about["checkpoint"] and not is_foreign(Path(about["checkpoint"])) else None,
            "config": unstructure(denoiser.config),
        },
        **found,
    }


def measure(
    denoiser: Denoiser,
    source: ImageSource,
    request: EvalRequest,
    progress: ProgressOf | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """The metrics of a model on images that are loaded: `data` and `metrics` of what `evaluate` returns."""
    check_shape(denoiser, source.image_size, source.channels)
    # everything that can be wrong is found before the first metric is begun
    check_variance(denoiser, request.variance or denoiser.config.variance)
    if "ode" in request.metrics:
        check_settings(denoiser.schedule, "hutchinson", request.repeats, request.tolerance, request.sigma_min)
    make_grid(request.grid, denoiser.schedule.num_steps, request.steps)
    n = min(request.n, len(source))
    chosen = np.sort(keyed.permutation(len(source), request.seed, Stream.EVAL_IMAGES)[:n])
    rows = range(n) if world is None else world.rows(n)
    here = chosen[rows.start : rows.stop]
    images, label = source.images(here), labels_for(denoiser, source, here)
    settings: dict[str, Any] = {
        "label": None if label is None else label.tolist(), "seed": request.seed, "first_index": rows.start
    }  # fmt: skip

    def together(compute: Callable[[], Any]) -> Any:
        """The results of all processes' images in the main one, None in the others."""
        part = compute() if len(rows) else None
        parts = [part] if world is None else world.collect(part)
        if parts is None:
            return None
        some = [p for p in parts if p is not None]
        return type(some[0]).joined(some)

    def ticker(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    chain = {"steps": request.steps, "grid": request.grid, "clip": request.clip, "variance": request.variance}
    exact = request.draws is None or "rate-distortion" in request.metrics
    terms: BitsPerDim | None = None
    flow: OdeBitsPerDim | None = None
    if {"nll", "rate-distortion"} & set(request.metrics):
        name = "nll" if "nll" in request.metrics else "rate-distortion"
        terms = together(lambda: bits_per_dim(
            denoiser, images, draws=None if exact else request.draws, batch_size=request.batch_size,
            progress=ticker(name), **chain, **settings,
        ))  # fmt: skip
    if "ode" in request.metrics:
        flow = together(lambda: ode_bits_per_dim(
            denoiser, images, repeats=request.repeats, tolerance=request.tolerance, sigma_min=request.sigma_min,
            batch_size=request.batch_size, progress=ticker("ode"), **settings,
        ))  # fmt: skip
    if world is not None and not world.is_main:
        return {}
    found: dict[str, Any] = {}
    if terms is not None:
        recipe: dict[str, Any] = {
            "n": n, "steps": len(terms.grid) - 1, "grid": request.grid, "draws": terms.draws, "exact": exact,
            "clip": denoiser.config.clip_x_0 if request.clip is None else request.clip,
            "variance": request.variance or denoiser.config.variance, "seed": request.seed,
        }  # fmt: skip
        if "nll" in request.metrics:
            per_t = {"per_t": _per_t(terms)} if exact else {}
            parts = {k: asdict(v) for k, v in terms.summary().items()}
            found["nll"] = {"bits_per_dim": parts, **recipe, **per_t}
        if "rate-distortion" in request.metrics:
            curve = terms.rate_distortion()
            found["rate-distortion"] = {
                "t": curve.t.tolist(), "rate_bits_per_dim": curve.rate.tolist(), "rmse": curve.rmse.tolist(), **recipe
            }  # fmt: skip
    if flow is not None:
        found["ode"] = {
            "bits_per_dim": {"total": asdict(Estimate.of(flow.total))}, "n": n, "trace": "hutchinson",
            "repeats": request.repeats, "tolerance": request.tolerance, "sigma_min": request.sigma_min,
            "dequantisation": "uniform", "network_calls": flow.calls, "seed": request.seed,
        }  # fmt: skip
    about = {
        "name": source.name, "images": len(source), "n": n, "image_size": list(source.image_size),
        "channels": source.channels, "labels": label is not None,
    }  # fmt: skip
    return _without_nan({"data": about, "metrics": found})


def measure_memorization(
    denoiser: Denoiser,
    train: ImageSource,
    held_out: ImageSource,
    request: EvalRequest,
    world: World,
    progress: ProgressOf | None = None,
    pairs: str | PathLike[str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(`data`, the entry of `metrics`) in the main process, None in the others; see `undye.metrics.memorization`."""
    for source in (train, held_out):
        check_shape(denoiser, source.image_size, source.channels)
    classes, steps = denoiser.config.num_classes, min(request.sample_steps or 50, denoiser.schedule.num_steps)
    asked = SampleRequest(
        n=request.n, steps=steps, seed=request.seed, batch_size=request.batch_size,
        label=None if classes is None else np.arange(request.n) % classes,
    )  # fmt: skip

    def ticker(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    samples = shared_sample(world, denoiser, asked, ticker("sampling"))
    if samples is None:
        return None
    n = min(request.n, len(held_out))
    chosen = np.sort(keyed.permutation(len(held_out), request.seed, Stream.EVAL_IMAGES)[:n])
    result = memorization(samples, train, held_out.images(chosen), ticker("comparing"))
    if pairs is not None:
        save_png(enlarge(tile(closest_pairs(result, samples, train), columns=2)), Path(pairs))
    order = np.argsort(result.samples)[:8]
    data = {"name": train.name, "images": len(train), "n": len(train), "image_size": list(train.image_size),
            "channels": train.channels, "labels": False}  # fmt: skip
    return data, {
        "z": result.z, "near_copies": result.near_copies, "near_by_chance": result.near_by_chance,
        "n": request.n, "train_images": len(train),
        "held_out": {"name": held_out.name, "n": n}, "seed": request.seed, "sampler": "ddim", "steps": steps,
        "rms_of_255": {
            name: {str(q): float(np.quantile(values, q)) for q in (0.0, 0.01, 0.1, 0.5)}
            for name, values in (("samples", result.samples), ("held_out", result.held_out))
        },
        "nearest": [
            {"sample": int(k), "image": train.names(result.nearest[[k]])[0], "rms_of_255": float(result.samples[k])}
            for k in order
        ],
    }  # fmt: skip


def labels_for(denoiser: Denoiser, source: ImageSource, chosen: np.ndarray) -> np.ndarray | None:
    """The images' classes by the model's numbers: matched by name where both have names, else by number.

    Raises:
        UserError: for a model without classes, or a class that it does not know.
    """
    label = source.labels(chosen)
    if label is None:
        return None
    config = denoiser.config
    if config.num_classes is None:
        raise UserError("this model was trained without labels: leave --labels out")
    if config.class_names is None or source.class_names is None:
        return label
    number = {name: i for i, name in enumerate(config.class_names)}
    used = [source.class_names[k] for k in np.unique(label)]
    if unknown := [name for name in used if name not in number]:
        raise UserError(f"the model knows no class {unknown[0]!r}: its classes are {', '.join(config.class_names)}")
    return np.array([number[source.class_names[k]] for k in label], dtype=np.int64)


def _per_t(terms: BitsPerDim) -> dict[str, list]:
    """Means over the images of what there is at every time."""
    times = terms.grid[:-1].astype(int)
    return {
        "t": times.tolist(),
        "kl_bits_per_dim": terms.per_step[:, times].mean(0).tolist(),
        "x_0_mse": terms.x_0_mse[:, times].mean(0).tolist(),
        "eps_mse": terms.eps_mse[:, times].mean(0).tolist(),
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None in its place (the standard error of one image)."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _version() -> str:
    from importlib.metadata import version

    return version("undye")
