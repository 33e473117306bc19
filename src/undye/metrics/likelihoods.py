"""What a model says of images: the likelihood metrics of a report, each with its recipe."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from undye import keyed
from undye.data.source import ImageSource
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.findings import Findings, ProgressOf, ticker
from undye.metrics.inputs import check_shape, check_variance
from undye.metrics.intervals import Replicates, entry_of
from undye.metrics.nll import BitsPerDim, Estimate, bits_per_dim
from undye.metrics.numbers import rate_number
from undye.metrics.ode_nll import OdeBitsPerDim, check_settings, ode_bits_per_dim
from undye.metrics.rate_distortion import RMSES
from undye.metrics.requests import EvalRequest
from undye.metrics.resampling import Resampling, mean_replicates
from undye.samplers.grid import make_grid
from undye.world import World


@dataclass(frozen=True)
class Likelihoods:
    """What has been measured, beside the report's entries.

    Attributes:
        data: what a report says of the images.
        replicates: of the numbers by which models are compared; without those that were not asked for or failed. Empty
            in other processes than the main one, and for a single image, which says nothing of the spread.
    """

    data: dict[str, Any]
    replicates: dict[str, Replicates]


def check_likelihoods(denoiser: Denoiser, source: ImageSource, request: EvalRequest) -> None:
    """Find everything that can be wrong before the first metric is begun.

    Raises:
        UserError: for images or settings that do not fit the model.
    """
    check_shape(denoiser, source.image_size, source.channels)
    check_variance(denoiser, request.variance or denoiser.config.variance)
    if request.asks("ode"):
        check_settings(denoiser.schedule, "hutchinson", request.repeats, request.tolerance, request.sigma_min)
    make_grid(request.grid, denoiser.schedule.num_steps, request.steps)
    labels_for(denoiser, source, chosen_rows(source, request.images, request.seed))


def measure_likelihoods(
    denoiser: Denoiser,
    source: ImageSource,
    request: EvalRequest,
    found: Findings,
    progress: ProgressOf | None = None,
    world: World | None = None,
    recipe: dict[str, Any] | None = None,
    resampling: Resampling | None = None,
) -> Likelihoods:
    """The bound, the rate-distortion curve and the ODE's likelihood, put into `found`.

    Args:
        denoiser: the model.
        source: the images.
        request: how.
        found: has them, each with its settings and `recipe`.
        progress: called with (metric, done, all).
        world: the processes that share the images.
        recipe: what all of them have in common: versions, model, images.
        resampling: of the bootstrap over the images. All models that are asked about the same images share it, so their
            differences are paired. None: no replicates.

    Returns:
        The replicates, and the report's `data`.
    """
    world = world or World.alone()
    chosen = chosen_rows(source, request.images, request.seed)
    n, rows = len(chosen), world.rows(len(chosen))
    here = chosen[rows.start : rows.stop]
    images, label = source.images(here), labels_for(denoiser, source, here)
    settings: dict[str, Any] = {
        "label": None if label is None else label.tolist(), "seed": request.seed, "first_index": rows.start
    }  # fmt: skip

    def together(compute: Callable[[], Any]) -> Any:
        """The results of all processes' images in the main one, None in the others."""
        parts = world.collect(compute() if len(rows) else None)
        if parts is None:
            return None
        some = [p for p in parts if p is not None]
        return type(some[0]).joined(some)

    weights = None if resampling is None or n < 2 or not world.is_main else resampling.weights(n)
    replicates: dict[str, Replicates] = {}
    chain = {"steps": request.steps, "grid": request.grid, "clip": request.clip, "variance": request.variance}
    exact = request.draws is None or request.asks("rate-distortion")
    asked = [m for m in ("nll", "rate-distortion") if request.asks(m)]
    if asked:
        with found.attempt(*asked):
            terms: BitsPerDim | None = together(lambda: bits_per_dim(
                denoiser, images, draws=None if exact else request.draws, batch_size=request.batch_size,
                progress=ticker(progress, asked[0]), **chain, **settings,
            ))  # fmt: skip
            if terms is not None:
                if weights is not None and request.asks("nll"):
                    replicates["nll"] = mean_replicates(terms.total, weights)
                if weights is not None and request.asks("rate-distortion"):
                    rates = terms.image_curves().rate_replicates(weights, RMSES)
                    replicates |= {rate_number(rmse): each for rmse, each in rates.items()}
                for metric in asked:
                    entry = _of_bound(metric, terms, denoiser, request, n, exact, replicates)
                    found.add(metric, {**entry, "recipe": recipe or {}})
    if request.asks("ode"):
        with found.attempt("ode"):
            flow: OdeBitsPerDim | None = together(lambda: ode_bits_per_dim(
                denoiser, images, repeats=request.repeats, tolerance=request.tolerance, sigma_min=request.sigma_min,
                batch_size=request.batch_size, progress=ticker(progress, "ode"), **settings,
            ))  # fmt: skip
            if flow is not None:
                found.add("ode", {**_of_flow(flow, request, n), "recipe": recipe or {}})
                if weights is not None:
                    replicates["ode"] = mean_replicates(flow.total, weights)
    data = {
        "name": source.name, "images": len(source), "n": n, "image_size": list(source.image_size),
        "channels": source.channels, "labels": label is not None,
    }  # fmt: skip
    return Likelihoods(data, replicates)


def chosen_rows(source: ImageSource, n: int, seed: int) -> np.ndarray:
    """At most n of a source's images, by the seed, in their order."""
    return np.sort(keyed.permutation(len(source), seed, Stream.EVAL_IMAGES)[:n])


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


def _of_bound(
    metric: str,
    terms: BitsPerDim,
    denoiser: Denoiser,
    request: EvalRequest,
    n: int,
    exact: bool,
    replicates: dict[str, Replicates],
) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "n": n, "steps": len(terms.grid) - 1, "grid": request.grid, "draws": terms.draws, "exact": exact,
        "clip": denoiser.config.clip_x_0 if request.clip is None else request.clip,
        "variance": request.variance or denoiser.config.variance, "seed": request.seed,
    }  # fmt: skip
    if metric == "nll":
        parts = {k: asdict(v) for k, v in terms.summary().items()}
        return {"bits_per_dim": parts, **recipe, **({"per_t": _per_t(terms)} if exact else {})}
    curve = terms.rate_distortion()
    at = [
        {"rmse": at, "rate_bits_per_dim": curve.rate_at(at), **entry_of(replicates.get(rate_number(at)))}
        for at in RMSES
    ]
    points = {"t": curve.t.tolist(), "rate_bits_per_dim": curve.rate.tolist(), "rmse": curve.rmse.tolist()}
    return {**points, "at_rmse": at, **recipe}


def _of_flow(flow: OdeBitsPerDim, request: EvalRequest, n: int) -> dict[str, Any]:
    return {
        "bits_per_dim": {"total": asdict(Estimate.of(flow.total))}, "n": n, "trace": "hutchinson",
        "repeats": request.repeats, "tolerance": request.tolerance, "sigma_min": request.sigma_min,
        "dequantisation": "uniform", "network_calls": flow.calls, "seed": request.seed,
    }  # fmt: skip


def _per_t(terms: BitsPerDim) -> dict[str, list]:
    """Means over the images of what there is at every time."""
    times = terms.grid[:-1].astype(int)
    return {
        "t": times.tolist(),
        "kl_bits_per_dim": terms.per_step[:, times].mean(0).tolist(),
        "x_0_mse": terms.x_0_mse[:, times].mean(0).tolist(),
        "eps_mse": terms.eps_mse[:, times].mean(0).tolist(),
    }
