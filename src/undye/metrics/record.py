"""A report of `undye.evaluate` as rows of the model card."""

from typing import Any

from undye.checkpoint.card import Measurement


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
    return rows


def _row(metric: str, estimate: dict[str, float | None], data: str, how: str) -> Measurement:
    mean = estimate["mean"]
    assert mean is not None
    return Measurement(metric=metric, value=mean, standard_error=estimate["standard_error"], data=data, how=how)
