"""The numbers of a report by which models are compared: what they are called, which way is good, what must be alike.

Each metric has its reader here, one line of `READERS`. The names are also those of the bootstrap's replicates.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

PRECISION_RECALL = ("precision", "recall", "density", "coverage")
MEAN_OF_CLASSES = "mean fid of classes"
NEAR_COPIES, FARTHER, DISTANCE = "near copies", "farther than unseen", "distance to training"
IN_FEATURES, IN_PIXELS = "nearest in features", "nearest in pixels"


@dataclass(frozen=True)
class Number:
    """One number of one model.

    Attributes:
        value: it; None where a report has none.
        lower_is_better: which way is good; None where neither is by itself.
        resampled: what the bootstrap drew again; two of one draw are paired if it is the same.
        beside: what must be the same for two values to compare at all.
        otherwise: why they do not where it differs, in words.
    """

    value: float | None
    lower_is_better: bool | None
    resampled: Hashable = ()
    beside: Hashable = ()
    otherwise: str = ""


def class_number(name: str) -> str:
    """What the FID of a class is called."""
    return f"fid of {name}"


def rate_number(rmse: float) -> str:
    """What the rate at an error is called."""
    return f"rate at RMSE {rmse:g}"


def numbers_of(metric: str, entry: dict[str, Any] | None) -> dict[str, Number]:
    """Those of a metric, by their names; without those that are not finite, none of a metric that was not measured.

    Args:
        metric: its name.
        entry: what a report of `undye.evaluate` has under it.
    """
    found = {} if entry is None else READERS[metric](metric, entry)
    return {name: number for name, number in found.items() if number.value is not None}  # a report has None for NaN


def _mean_of_images(metric: str, entry: dict[str, Any]) -> dict[str, Number]:
    return {metric: Number(entry["bits_per_dim"]["total"]["mean"], True, ("images", entry["n"]))}


def _curve(_: str, entry: dict[str, Any]) -> dict[str, Number]:
    return {
        rate_number(row["rmse"]): Number(row["rate_bits_per_dim"], True, ("images", entry["n"]))
        for row in entry["at_rmse"]
    }


def _distance(metric: str, entry: dict[str, Any]) -> dict[str, Number]:
    return {metric: Number(entry["value"], metric != "is", ("samples", entry["n"]))}


def _precision_recall(_: str, entry: dict[str, Any]) -> dict[str, Number]:
    return {name: Number(entry[name]["value"], False, ("samples", entry["n"])) for name in PRECISION_RECALL}


def _classes(_: str, entry: dict[str, Any]) -> dict[str, Number]:
    counted = [row for row in entry["classes"] if row["value"] is not None]
    if not counted:
        return {}
    # sample i of two models is alike in class only where the classes go round in the same order
    order = entry["recipe"]["samples"].get("labels")
    of_all = tuple((row["label"], row["name"], row["n"]) for row in counted)
    names = tuple(sorted(row["name"] for row in counted))
    mean = Number(entry["mean"], True, (order, of_all), names, "it is a mean over other classes")
    each = {class_number(row["name"]): Number(row["value"], True, (order, row["label"], row["n"])) for row in counted}
    return {MEAN_OF_CLASSES: mean, **each}


def _memorization(_: str, entry: dict[str, Any]) -> dict[str, Number]:
    samples, unseen = ("samples", entry["n"]), entry["held_out"]["n"]
    beside = {"beside": unseen, "otherwise": "they lie beside other unseen images, as many as there are samples"}
    return {
        NEAR_COPIES: Number(entry["copies_beyond_chance"], True, samples, **beside),
        FARTHER: Number(entry["farther_than_unseen"], None, samples, **beside),
        DISTANCE: Number(entry["rms_of_255"]["samples"]["0.5"], None, samples),
    }


def _neighbours(_: str, entry: dict[str, Any]) -> dict[str, Number]:
    near, samples = entry["median_nearest"], ("first samples", entry["n"])
    return {
        IN_FEATURES: Number(near["features"], None, samples),
        IN_PIXELS: Number(near["pixels_rms_of_255"], None, samples),
    }


READERS: dict[str, Callable[[str, dict[str, Any]], dict[str, Number]]] = {
    "nll": _mean_of_images, "ode": _mean_of_images, "rate-distortion": _curve, "fid": _distance, "kid": _distance,
    "sfid": _distance, "is": _distance, "pr": _precision_recall, "fid-per-class": _classes,
    "memorization": _memorization, "neighbours": _neighbours,
}  # fmt: skip
"""In the order of a table."""
