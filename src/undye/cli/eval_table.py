"""A report of `undye eval` as the terminal shows it."""

from typing import Any

from undye.metrics.numbers import PRECISION_RECALL
from undye.metrics.wording import drawn

RATE_ROWS = 10
LIKELIHOODS = {"nll": "NLL", "ode": "ODE"}
NAMES = {
    **LIKELIHOODS, "fid": "FID", "kid": "KID", "is": "IS", "sfid": "sFID", **{name: name for name in PRECISION_RECALL},
}  # fmt: skip


def table(report: dict[str, Any]) -> list[str]:
    """The lines of a report of `undye.evaluate`."""
    data, found, model = report["data"], report["metrics"], report["model"]
    if "config" not in model:  # a model's `images` are those that it was trained on
        what = f"images  {model['images']}"
    else:
        what = f"model   {model['checkpoint']}" + (", raw weights" if model["weights"] == "raw" else "")
    lines = [what, f"data    {data['name']}: {data['n']:,} of {data['images']:,} images"]
    if "samples" in report:
        lines.append(f"samples {_samples(report['samples'])}")
    if "features" in report:
        features = report["features"]
        lines.append(f"features {features['name']} ({features['dims']:,} dimensions, sha256 {features['sha256'][:12]})")
    lines += [*_likelihoods(found), *_quality(found), *_per_class(found), *_beside_training(found), *_curve(found)]
    return [*lines, *_failed(report)]


def _samples(s: dict[str, Any]) -> str:
    if "images" in s:
        few = f", all there are of the {s['asked']:,} asked for" if (s["asked"] or 0) > s["n"] else ""
        return f"{s['n']:,} images{few}{_left_out(s)}"
    kept = f", {s['kept']:,} of them kept from before" if s["kept"] else ""
    damaged = f", {s['damaged']} damaged files drawn again" if s["damaged"] else ""
    labels = f", class {s['labels']}" if s["labels"] else ""
    where = f", in {s['folder']}" if s["folder"] else ""
    return f"{s['n']:,}: {drawn(s)}{labels}{kept}{damaged}{where}"


def _left_out(about: dict[str, Any]) -> str:
    return f", {about['left_out']:,} that cannot be read left out" if about["left_out"] else ""


def _likelihoods(found: dict[str, Any]) -> list[str]:
    lines = []
    if "nll" in found:
        nll = found["nll"]
        how = "every step" if nll["exact"] else f"{nll['draws']} steps drawn for each image, and the last"
        lines += ["", f"variational bound, {nll['steps']} steps, {nll['variance']} ({how})"]
        names = {"total": "bits/dim", "prior": "  prior", "rate": "  rate", "decoder": "  decoder"}
        lines += [f"  {label:<12}{_number(nll['bits_per_dim'][key])}" for key, label in names.items()]
    if "ode" in found:
        ode = found["ode"]
        lines += ["", f"probability-flow ODE, uniform dequantisation ({ode['network_calls']:.0f} network calls)"]
        lines += [f"  {'bits/dim':<12}{_number(ode['bits_per_dim']['total'])}"]
    return lines


def _quality(found: dict[str, Any]) -> list[str]:
    """A line for each number in features, with its interval; then what has to be known of them."""
    rows: list[str] = []
    flags: dict[str, None] = {}
    head: dict[str, Any] | None = None
    for metric in ("fid", "sfid", "kid", "is", "pr"):
        if metric not in found:
            continue
        entry = head = found[metric]
        numbers = {metric: entry} if metric != "pr" else {k: entry[k] for k in PRECISION_RECALL}
        for name, number in numbers.items():
            rows.append(f"  {NAMES[name]:<12}{short(number['value']):>9}{_interval(number)}")
        if (infinity := entry.get("infinity")) is not None:
            rows.append(f"  {'  n = inf':<12}{short(infinity['value']):>9}   extrapolated ({NAMES[metric]}-infinity)")
        if (subsets := entry.get("subsets")) is not None:
            size = f"{subsets['subsets']} subsets of {subsets['subset_size']:,}"
            rows.append(f"  {'  subsets':<12}{short(subsets['value']):>9}   +- {short(subsets['std'])} among {size}")
        flags |= dict.fromkeys(f"{NAMES.get(metric, 'pr')}: {flag}" for flag in entry["flags"])
    if head is None:
        return []
    reference = head["recipe"]["reference"]
    beside = f"{reference['n']:,} images of {reference['name']}{_left_out(reference)}"
    title = f"{head['n']:,} samples beside {beside} (95 % intervals)"
    return ["", title, *rows, *(f"  ! {flag}" for flag in flags)]


def _per_class(found: dict[str, Any]) -> list[str]:
    if "fid-per-class" not in found:
        return []
    entry = found["fid-per-class"]
    lines = ["", "FID of each class (95 % intervals)"]
    for c in entry["classes"]:
        value = "-" if c["value"] is None else short(c["value"])
        mark = " !" if c["rank_deficient"] else ""
        counts = f"   {c['n']:,} samples, {c['reference_n']:,} images"
        lines.append(f"  {c['name']:<16}{value:>9}{_interval(c):<21}{counts}{mark}")
    if entry["mean"] is not None:
        lines.append(f"  {'mean':<16}{short(entry['mean']):>9}{_interval({'interval': entry['mean_interval']})}")
    return [*lines, *(f"  ! {flag}" for flag in entry["flags"])]


def _beside_training(found: dict[str, Any]) -> list[str]:
    lines = []
    if "memorization" in found:
        m = found["memorization"]
        here, there = (m["rms_of_255"][key]["0.5"] for key in ("samples", "held_out"))
        lines += [
            "",
            f"memorization: {m['n']:,} samples and {m['held_out']['n']:,} unseen images against {m['train_images']:,}",
            f"  nearest training image, median RMS of 255: samples {here:.2f}, unseen images {there:.2f}",
            f"  nearer than 99 % of unseen images: {100 * m['near_copies']:.1f} % of the samples "
            f"({100 * m['near_by_chance']:.1f} % by chance)",
            f"  z {m['z']:+.1f} ({'the model copies its training images' if m['z'] < -3 else 'no sign of copying'})",
        ]
    if "neighbours" in found:
        entry = found["neighbours"]
        near = entry["median_nearest"]
        lines += [
            "",
            f"nearest of {entry['train_images']:,} training images, median of {entry['n']} samples: "
            f"{near['features']:.4g} in features, RMS {near['pixels_rms_of_255']:.2f} of 255 in pixels",
        ]
    return lines


def _curve(found: dict[str, Any]) -> list[str]:
    if "rate-distortion" not in found:
        return []
    curve = found["rate-distortion"]
    lines = ["", "rate-distortion", "  t       rate (bits/dim)  RMSE (of 255)"]
    k = len(curve["t"])
    rows = sorted({round(i * (k - 1) / RATE_ROWS) for i in range(RATE_ROWS + 1)})
    for i in rows:
        lines.append(f"  {curve['t'][i]:<8}{curve['rate_bits_per_dim'][i]:<17.5f}{curve['rmse'][i]:.3f}")
    lines.append("  the RMSE has fallen to (95 % intervals)")
    for at in curve["at_rmse"]:
        rate = at["rate_bits_per_dim"]
        said = "never" if rate is None else f"at {rate:.4f} bits/dim{_interval(at)}"
        lines.append(f"  {at['rmse']:<8g}{said}")
    return lines


def _failed(report: dict[str, Any]) -> list[str]:
    failed = report.get("failed", {})
    return ["", *(f"! {metric}: not measured ({why})" for metric, why in failed.items())] if failed else []


def _interval(number: dict[str, Any]) -> str:
    interval = number["interval"]
    return "" if interval is None else f"   {short(interval['low'])} to {short(interval['high'])}"


def short(value: float) -> str:
    """Four digits that say something; small numbers (KID) keep them."""
    return f"{value:z.3f}" if abs(value) >= 0.1 or abs(value) < 5e-6 else f"{value:.5f}"


def _number(estimate: dict[str, float | None]) -> str:
    mean, error = estimate["mean"], estimate["standard_error"]
    assert mean is not None
    if mean != 0 and abs(mean) < 1e-3:
        return f"{mean:.2g}" + (f"  +- {error:.1g}" if error is not None else "")
    return f"{mean:.4f}" + (f"  +- {error:.4f}" if error is not None else "")
