"""What `benchmarks.samplers` has found: the tables, the verdicts, the plot."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sampler_lines import CALLS, MANY
from undye.files import atomic_path
from undye.metrics.intervals import Replicates, difference

COLUMNS = (*CALLS, *MANY)
OURS = "default"
"""What `undye sample --steps N` does where no sampler is named."""

Lines = list[dict[str, Any]]


def report(lines: Lines, n: int, how: str) -> list[str]:
    """The lines of a Markdown page.

    Args:
        lines: what has been measured.
        n: images of each.
        how: the command.
    """
    found = {(line["name"], line["calls"]): line for line in lines}
    names = list(dict.fromkeys(line["name"] for line in lines if line["calls"]))
    names.sort(key=lambda name: name.startswith("diffusers"))
    columns = [c for c in COLUMNS if any((name, c) in found for name in names)]
    text = [f"# Samplers by network calls, {n:,} images of the same x_T", "", f"`{how}`", ""]
    for title, of in (
        ("Distance to the 500-step ODE solution (root mean square of x_0 in [-1, 1])", _distance("ode")),
        (f"FID of the {n:,} images to the test images in the package's own features, 95 % interval", _fid),
        ("Distance to ancestral sampling in all steps", _distance("ancestral")),
    ):
        if not any(map(of, found.values())):
            continue  # what it is held against has not been drawn yet
        text += [
            f"## {title}",
            "",
            "| sampler | " + " | ".join(map(str, columns)) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for name in names:
            cells = [of(found[name, c]) if (name, c) in found else "" for c in columns]
            text.append(f"| {'**' + name + '**' if name == OURS else name} | " + " | ".join(cells) + " |")
        text.append("")
    if any("heun" in name.lower() for name in names):
        text += ["Where a sampler takes two calls a step, it may have made one less than the column says.", ""]
    adaptive = [line for line in lines if not line["calls"]]
    if adaptive:
        text += ["Samplers that take as many calls as their tolerance asks for:", ""]
        text += [f"- {x['name']}: {_distance('ode')(x)} from the ODE solution, FID {_fid(x)}" for x in adaptive]
        text.append("")
    return [*text, *verdicts(found)]


def verdicts(found: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """How ours stand beside the best of diffusers'."""
    text = ["## Beside diffusers", ""]
    theirs = {
        c: [x for (name, calls), x in found.items() if name.startswith("diffusers") and calls == c] for c in CALLS
    }
    for calls in CALLS:
        ours = found.get((OURS, calls))
        if ours is None or not theirs[calls]:
            continue
        near = min(theirs[calls], key=lambda x: x["distance_ode"])
        text.append(
            f"- {calls} calls: {ours['distance_ode']:.4f} from the ODE solution, the nearest of diffusers' "
            f"({near['name']}) {near['distance_ode']:.4f}, "
            f"{near['distance_ode'] / ours['distance_ode']:.2f} times as far"
        )
    ours, most = found.get((OURS, 10)), theirs.get(20)
    if ours is not None and most and "fid" in ours:
        best = min(most, key=lambda x: x["fid"])
        a, b = (Replicates(x["fid"], np.array(x["fid_replicates"])) for x in (ours, best))
        d = difference(a, b)
        text.append(
            f"- FID at 10 calls {_fid(ours)}, the best of diffusers' at 20 ({best['name']}) {_fid(best)}: difference "
            f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), paired"
        )
    return text


def plot(lines: Lines, path: Path) -> None:
    """Distance and FID against network calls; diffusers' dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 8), constrained_layout=True)
    names = list(dict.fromkeys(line["name"] for line in lines))
    colours = pyplot.get_cmap("tab20").colors
    for axis, key, label in (
        (axes[0], "distance_ode", "distance to the 500-step ODE solution (RMS)"), (axes[1], "fid", "FID, own features")
    ):  # fmt: skip
        for index, name in enumerate(names):
            points = sorted((line["calls"], line[key]) for line in lines if line["name"] == name and key in line)
            if not points:
                continue
            style: dict[str, Any] = {"linestyle": "--", "alpha": 0.8} if name.startswith("diffusers") else {}
            colour = "black" if name == OURS else colours[index % len(colours)]
            wide = 3 if name == OURS else 1.2
            axis.plot(
                *zip(*points, strict=True), marker="o", markersize=3, label=name, linewidth=wide, color=colour, **style
            )
        axis.set(xscale="log", yscale="log", xlabel="network calls", ylabel=label)
        columns = [c for c in COLUMNS if any(line["calls"] == c for line in lines)]
        axis.set_xticks(columns, [str(c) for c in columns])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _distance(name: str) -> Any:
    key = f"distance_{name}"
    return lambda line: f"{line[key]:.4f}" if key in line else ""


def _fid(line: dict[str, Any]) -> str:
    return f"{line['fid']:.3f} ({line['fid_low']:.3f} to {line['fid_high']:.3f})" if "fid" in line else ""
