"""A report of `undye.evaluate` as rows of the model card."""

from typing import Any

from undye.checkpoint.card import Measurement
from undye.metrics.wording import drawn

QUALITY = {"fid": "FID", "sfid": "sFID", "kid": "KID", "is": "Inception Score", "pr": ""}


def measurements(report: dict[str, Any]) -> list[Measurement]:
    """The numbers of a report that fit into a line, each with its recipe; a rate-distortion curve does not."""
    data, found = report["data"], report["metrics"]
    images = f"{data['name']}, {data['n']:,} of {data['images']:,} images" + (", with labels" if data["labels"] else "")
    rows = []
    if "nll" in found:
        nll = found["nll"]
        drawn = "every step" if nll["exact"] else f"{nll['draws']} steps drawn per image"
        how = f"{nll['steps']:,} steps ({nll['grid']}), {nll['variance']}, {drawn}, seed {nll['seed']}"
        rows.append(_row("NLL bound, bits/dim", nll["bits_per_dim"]["total"], images, how))
    if "ode" in found:
        ode = found["ode"]
        how = f"tolerance {ode['tolerance']:g}, sigma_min {ode['sigma_min']:g}, seed {ode['seed']}"
        rows.append(_row("NLL bound by the ODE, bits/dim", ode["bits_per_dim"]["total"], images, how))
    if "memorization" in found:
        m = found["memorization"]
        against = f"{m['train_images']:,} training images, {m['held_out']['n']:,} of {m['held_out']['name']}"
        images = f"{m['n']:,} samples, {against}"
        how = f"{m['sampler']}, {m['steps']} steps, seed {m['seed']}"
        for key, name in (
            ("z", "memorization, z (below -3: copies)"),
            ("near_copies", "memorization, share of near copies"),
        ):
            rows.append(Measurement(metric=name, value=m[key], standard_error=None, data=images, how=how))
    for metric, name in QUALITY.items():
        if metric in found:
            rows += _of_quality(name, found[metric])
    if "fid-per-class" in found and found["fid-per-class"]["mean"] is not None:
        rows.append(
            _in_features("FID of each class, mean", found["fid-per-class"]["mean"], None, found["fid-per-class"])
        )
    return rows


def _of_quality(name: str, entry: dict[str, Any]) -> list[Measurement]:
    """The rows of a metric in features: its numbers, and what it comes to with infinitely many samples."""
    numbers = {name: entry} if name else {k: entry[k] for k in ("precision", "recall", "density", "coverage")}
    rows = [
        _in_features(label, number["value"], (number["interval"] or {}).get("standard_error"), entry)
        for label, number in numbers.items()
    ]
    if entry.get("infinity") is not None:
        rows.append(_in_features(f"{name}-infinity", entry["infinity"]["value"], None, entry))
    return rows


def _in_features(metric: str, value: float, error: float | None, entry: dict[str, Any]) -> Measurement:
    recipe = entry["recipe"]
    reference, samples, features = recipe["reference"], recipe["samples"], recipe["features"]
    data = f"{entry['n']:,} samples, {reference['n']:,} images of {reference['name']}"
    how = f"{drawn(samples)}, features {features['name']} {features['sha256'][:12]}"
    return Measurement(metric=metric, value=value, standard_error=error, data=data, how=how)


def _row(metric: str, estimate: dict[str, float | None], data: str, how: str) -> Measurement:
    mean = estimate["mean"]
    assert mean is not None
    return Measurement(metric=metric, value=mean, standard_error=estimate["standard_error"], data=data, how=how)
