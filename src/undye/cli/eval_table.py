"""A report of `undye eval` or `undye compare` as the terminal shows it."""

from typing import Any

from undye.metrics.wording import drawn

RATE_ROWS = 10
LIKELIHOODS = {"nll": "NLL", "ode": "ODE"}
PRECISION_RECALL = ("precision", "recall", "density", "coverage")
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


def compare_table(report: dict[str, Any]) -> list[str]:
    """The lines of a report of `undye.compare`: a row for each model, and the verdicts below."""
    names = [m["name"] for m in report["models"]]
    width = max(map(len, names)) + 2
    columns = list(report["numbers"])
    cells: dict[tuple[str, str], str] = {}
    verdicts: list[str] = []
    for number, found in report["numbers"].items():
        first = found["models"][0]["name"]
        for row in found["models"]:
            best = row["name"] == found["best"]
            cells[row["name"], number] = _value(number, row["value"]) + ("*" if best else "")
            if not best:
                verdicts.append(_verdict(number, row, found["best"], row["to_best"], found["lower_is_better"]))
            if first not in (row["name"], found["best"]) and not best:
                verdicts.append(_verdict(number, row, first, row["to_first"], found["lower_is_better"]))
    wide = {c: max(len(NAMES[c]), *(len(cells.get((n, c), "")) for n in names)) + 2 for c in columns}
    lines = [" " * width + "n".rjust(8) + "".join(NAMES[c].rjust(wide[c]) for c in columns)]
    flags: dict[str, None] = {}
    for model in report["models"]:
        name = model["name"]
        cell = "".join(cells.get((name, c), "-").rjust(wide[c]) for c in columns)
        n = model.get("samples", model["data"])["n"]
        lines.append(f"{name:<{width}}{n:>8,}{cell}")
        for metric, entry in model["metrics"].items():
            flags |= dict.fromkeys(f"  ! {NAMES.get(metric, metric)} of {name}: {f}" for f in entry.get("flags", ()))
    failed = [f"! {name}: not measured ({why})" for name, why in report.get("failed", {}).items()]
    failed += [
        f"! {metric} of {model['name']}: not measured ({why})"
        for model in report["models"]
        for metric, why in model.get("failed", {}).items()
    ]
    if verdicts:
        verdicts = ["* the best; the differences, by the bootstrap (95 %):", *verdicts]
    return [*lines, *_asked_about(report), "", *verdicts, *flags, *failed]


def _asked_about(report: dict[str, Any]) -> list[str]:
    """What the likelihoods of a comparison are: of the same images for all models."""
    names = [name for metric, name in LIKELIHOODS.items() if metric in report["numbers"]]
    if not names:
        return []
    data = next(m["data"] for m in report["models"] if LIKELIHOODS.keys() & m["metrics"].keys())
    what = f"{data['n']:,} of {data['images']:,} images of {data['name']}"
    return ["", f"{', '.join(names)}: bits/dim of {what}"]


def _verdict(number: str, row: dict[str, Any], other: str, d: dict[str, Any] | None, lower: bool) -> str:
    """Whether a row differs from another one, in words."""
    start = f"  {NAMES[number]}: {row['name']}"
    if d is None:
        return f"{start} cannot be told from {other}: no interval"
    said = f"may be as good as {other}, the difference is not real"
    if d["real"]:
        said = f"is {'worse' if (d['value'] > 0) == lower else 'better'} than {other}"
    how = "paired" if d["paired"] else "unpaired"
    return f"{start} {said} ({d['value']:+.4g}, {d['low']:+.4g} to {d['high']:+.4g}, p = {_p(d['p_value'])}, {how})"


def _p(value: float) -> str:
    return "< 0.001" if value < 1e-3 else f"{value:.3f}"


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
            rows.append(f"  {NAMES[name]:<12}{_short(number['value']):>9}{_interval(number)}")
        if (infinity := entry.get("infinity")) is not None:
            rows.append(f"  {'  n = inf':<12}{_short(infinity['value']):>9}   extrapolated ({NAMES[metric]}-infinity)")
        if (subsets := entry.get("subsets")) is not None:
            size = f"{subsets['subsets']} subsets of {subsets['subset_size']:,}"
            rows.append(f"  {'  subsets':<12}{_short(subsets['value']):>9}   +- {_short(subsets['std'])} among {size}")
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
    lines = ["", "FID of each class"]
    for c in entry["classes"]:
        value = "-" if c["value"] is None else _short(c["value"])
        mark = " !" if c["rank_deficient"] else ""
        lines.append(f"  {c['name']:<16}{value:>9}   {c['n']:,} samples, {c['reference_n']:,} images{mark}")
    if entry["mean"] is not None:
        lines.append(f"  {'mean':<16}{_short(entry['mean']):>9}")
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
    return lines


def _failed(report: dict[str, Any]) -> list[str]:
    failed = report.get("failed", {})
    return ["", *(f"! {metric}: not measured ({why})" for metric, why in failed.items())] if failed else []


def _interval(number: dict[str, Any]) -> str:
    interval = number["interval"]
    return "" if interval is None else f"   {_short(interval['low'])} to {_short(interval['high'])}"


def _short(value: float) -> str:
    """Four digits that say something; small numbers (KID) keep them."""
    return f"{value:z.3f}" if abs(value) >= 0.1 or abs(value) < 5e-6 else f"{value:.5f}"


def _value(number: str, value: float) -> str:
    return f"{value:.4f}" if number in LIKELIHOODS else _short(value)


def _number(estimate: dict[str, float | None]) -> str:
    mean, error = estimate["mean"], estimate["standard_error"]
    assert mean is not None
    if mean != 0 and abs(mean) < 1e-3:
        return f"{mean:.2g}" + (f"  +- {error:.1g}" if error is not None else "")
    return f"{mean:.4f}" + (f"  +- {error:.4f}" if error is not None else "")
