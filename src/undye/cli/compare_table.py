"""A report of `undye compare` as the terminal shows it: rows for the models, and the verdicts below."""

from typing import Any

from undye.cli.eval_table import LIKELIHOODS, NAMES, short
from undye.metrics.numbers import MEAN_OF_CLASSES, class_number, rate_number

WIDTH = 110
"""Characters of a line of numbers, beyond which columns go into a table of their own."""
HEADINGS = {
    "rate-distortion": "bits/dim at which an image's RMSE has fallen to so many of 255",
    "fid-per-class": "FID of each class",
    "memorization": "distance to the nearest training image",
    "neighbours": "nearest training image of the first samples, median",
}
"""Of the tables beside the first one, by their metrics."""
COLUMNS = {
    "near copies": "near copies", "farther than unseen": "farther than unseen", "distance to training": "median RMS",
    "nearest in features": "in features", "nearest in pixels": "in pixels (RMS)", MEAN_OF_CLASSES: "mean",
}  # fmt: skip
"""What their columns are called, where not as the verdicts call the number."""


def compare_table(report: dict[str, Any]) -> list[str]:
    """The lines of a report of `undye.compare`."""
    numbers, models = report["numbers"], report["models"]
    plain = [name for name, found in numbers.items() if found["metric"] not in HEADINGS]
    lines = _rows(models, numbers, plain, None) if plain else []
    lines += _asked_about(models, numbers)
    for metric, heading in HEADINGS.items():
        if columns := [name for name, found in numbers.items() if found["metric"] == metric]:
            lines += [
                *([""] if lines else []),
                *_heading(models, metric, heading),
                *_rows(models, numbers, columns, metric),
            ]
    flags: dict[str, None] = {}
    for model in models:
        for metric, entry in model["metrics"].items():
            flags |= dict.fromkeys(
                f"  ! {NAMES.get(metric, metric)} of {model['name']}: {f}" for f in entry.get("flags", ())
            )
    failed = [f"! {name}: not measured ({why})" for name, why in report.get("failed", {}).items()]
    failed += [
        f"! {metric} of {model['name']}: not measured ({why})"
        for model in models
        for metric, why in model.get("failed", {}).items()
    ]
    if verdicts := _verdicts(numbers):
        verdicts = ["* the best; the differences, by the bootstrap (95 %):", *verdicts]
    return [*lines, "", *verdicts, *flags, *failed]


def _rows(models: list[dict[str, Any]], numbers: dict[str, Any], columns: list[str], metric: str | None) -> list[str]:
    """A table, or several below each other where the columns do not fit into one."""
    width = max(len(model["name"]) for model in models) + 2
    cells = {
        (row["name"], name): _value(numbers[name], row["value"]) + ("*" if row["name"] == numbers[name]["best"] else "")
        for name in columns
        for row in numbers[name]["models"]
    }
    heads = {name: _column(name) for name in columns}
    wide = {c: max(len(heads[c]), *(len(cells.get((m["name"], c), "")) for m in models)) + 2 for c in columns}
    lines: list[str] = []
    while columns:
        fit = 1
        while fit < len(columns) and width + 8 + sum(wide[c] for c in columns[: fit + 1]) <= WIDTH:
            fit += 1
        some, columns = columns[:fit], columns[fit:]
        lines.append(" " * width + "n".rjust(8) + "".join(heads[c].rjust(wide[c]) for c in some))
        for model in models:
            cell = "".join(cells.get((model["name"], c), "-").rjust(wide[c]) for c in some)
            lines.append(f"{model['name']:<{width}}{_n(model, metric):>8}{cell}")
    return lines


def _n(model: dict[str, Any], metric: str | None) -> str:
    """Images of a row: those of the table's metric, else the samples, else what the likelihoods look at."""
    if metric is None:
        return f"{model.get('samples', model['data'])['n']:,}"
    entry = model["metrics"].get(metric)
    return "-" if entry is None else f"{entry['n']:,}"


def _column(name: str) -> str:
    of_class, of_rate = class_number(""), rate_number(0)[:-1]
    for start in (of_class, of_rate):
        if name.startswith(start):
            return name.removeprefix(start)
    return COLUMNS.get(name, NAMES.get(name, name))


def _called(name: str) -> str:
    """What a verdict calls a number."""
    return NAMES.get(name, name.replace("fid of", "FID of", 1) if name.startswith(("fid of", "mean fid of")) else name)


def _heading(models: list[dict[str, Any]], metric: str, heading: str) -> list[str]:
    """What a table is about, and what has to be known to read its numbers."""
    entry = next(m["metrics"][metric] for m in models if metric in m["metrics"])
    if "train_images" in entry:
        heading += f", of {entry['train_images']:,}"
    if metric != "memorization":
        return [heading]
    chance = f"{100 * entry['near_by_chance']:.1f} %"
    return [heading, f"(near copies: the share beyond the {chance} of chance; farther than unseen: 0.5 is alike)"]


def _asked_about(models: list[dict[str, Any]], numbers: dict[str, Any]) -> list[str]:
    """What the likelihoods of a comparison are: of the same images for all models."""
    names = [name for metric, name in LIKELIHOODS.items() if metric in numbers]
    if any(found["metric"] == "rate-distortion" for found in numbers.values()):
        names.append("rate-distortion")
    if not names:
        return []
    data = next(m["data"] for m in models if {*LIKELIHOODS, "rate-distortion"} & m["metrics"].keys())
    what = f"{data['n']:,} of {data['images']:,} images of {data['name']}"
    return ["", f"{', '.join(names)}: bits/dim of {what}"]


def _verdicts(numbers: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    of_classes: dict[tuple[str, str, bool], list[tuple[str, str]]] = {}
    for number, found in numbers.items():
        first, best = found["models"][0]["name"], found["best"]
        for row in found["models"]:
            others = [] if row["name"] == best else [] if best is None else [(best, row["to_best"])]
            if row["name"] not in (first, best) and first != best:
                others.append((first, row["to_first"]))
            for other, d in others:
                line = _verdict(number, found, row["name"], other, d)
                if found["metric"] == "fid-per-class" and number != MEAN_OF_CLASSES and not (d and d["real"]):
                    # of many classes most do not differ: one line for those
                    of_classes.setdefault((row["name"], other, d is None), []).append((number, line))
                else:
                    lines.append(line)
    for (name, other, unknown), group in of_classes.items():
        if len(group) == 1:
            lines.append(group[0][1])
        else:
            classes = ", ".join(_column(number) for number, _ in group)
            said = f"may be as good as {other}, the differences are not real"
            lines.append(
                f"  FID of {classes}: {name} {f'cannot be told from {other}: no interval' if unknown else said}"
            )
    return lines


def _verdict(number: str, found: dict[str, Any], name: str, other: str, d: dict[str, Any] | None) -> str:
    """Whether a model differs from another one, in words."""
    start, lower = f"  {_called(number)}: {name}", found["lower_is_better"]
    if d is None:
        return f"{start} cannot be told from {other}: {found.get('otherwise', 'no interval')}"
    if not d["real"]:
        alike = "the same as" if lower is None else "as good as"
        said = f"may be {alike} {other}, the difference is not real"
    elif lower is None:
        said = f"is {'above' if d['value'] > 0 else 'below'} {other}, the difference is real"
    else:
        said = f"is {'worse' if (d['value'] > 0) == lower else 'better'} than {other}"
    how = "paired" if d["paired"] else "unpaired"
    return f"{start} {said} ({d['value']:+.4g}, {d['low']:+.4g} to {d['high']:+.4g}, p = {_p(d['p_value'])}, {how})"


def _p(value: float) -> str:
    return "< 0.001" if value < 1e-3 else f"{value:.3f}"


def _value(found: dict[str, Any], value: float) -> str:
    return f"{value:.4f}" if found["metric"] in (*LIKELIHOODS, "rate-distortion") else short(value)
