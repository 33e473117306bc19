"""report.html: a run on one page, in one file that needs nothing else.

It is made from what the run's folder holds (log.jsonl, config.toml, samples/), so that it does not matter how often the
run was stopped.
"""

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from undye.errors import UserError
from undye.files import atomic_path
from undye.training.charts import Line, Points, chart, extremes, gathered, number, smoothed
from undye.training.console import clock, show_bytes
from undye.training.events import Event, Failed, Finished, Measured, Notice, Previewed, Saved, Started
from undye.training.folder import RunFolder, read_toml
from undye.training.report_page import PAGE, SCRIPT, STYLE
from undye.training.window import bucket_bounds

REPORT = "report.html"
PICTURES = 16
"""The most sample grids on the page, evenly spread over the run."""
PICTURE_SIZE = 512
"""The longer side of one, in pixels."""
REST = 200
"""Between two times of writing it lie this many times what it takes: it costs a run less than 1 / REST of its time."""

Record = Mapping[str, Any]


class Report:
    """Renews report.html after each checkpoint, sample grid and measurement, and at the end."""

    def __init__(self, run: Path, tell: Callable[[Notice], None] = lambda notice: None):
        """Get ready; `tell` is called once, should it be impossible to write the page."""
        self.folder, self._tell = RunFolder(run), tell
        self._facts: tuple[str, ...] = ()
        self._pictures: dict[Path, str] = {}
        self._due = self._told = False
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Write the page if it is due, and not so soon after the last time."""
        if isinstance(event, Started):
            self._facts = event.lines
        ends = isinstance(event, Finished | Failed)
        self._due |= ends or isinstance(event, Started | Saved | Previewed | Measured)
        start = time.monotonic()
        if not self._due or (start < self._next and not ends):
            return
        self._due = False
        try:
            self.write()
        except Exception as error:  # nothing about a page of curves is worth a run
            if not self._told:
                self._told = True
                reason = " ".join(str(error).split())
                text = f"report.html could not be written ({type(error).__name__}: {reason}); the run goes on"
                self._tell(Notice(text))
        self._next = time.monotonic() + REST * (time.monotonic() - start)

    def write(self) -> Path:
        """Write the page as it is now; returns its path."""
        path = self.folder.path / REPORT
        text = page(self.folder, read_log(self.folder.log), self._facts, self._picture)
        with atomic_path(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "replace"))
        return path

    def _picture(self, path: Path) -> str:
        """A picture as a data URI; it is made once."""
        if path not in self._pictures:
            self._pictures[path] = data_uri(path)
        return self._pictures[path]


def read_log(path: Path) -> list[Record]:
    """The records of a log.jsonl; a line that is only half there is passed over."""
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "event" in record:
            records.append(record)
    return records


def data_uri(path: Path) -> str:
    """A picture for inside the page, small enough for it."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def page(folder: RunFolder, log: Sequence[Record], facts: Sequence[str], picture: Callable[[Path], str]) -> str:
    """The whole page.

    Args:
        folder: the run's.
        log: its records.
        facts: lines on data, network and device.
        picture: gives a picture's data URI.
    """
    name = folder.path.absolute().name
    try:
        config = read_toml(folder.config)
    except UserError:
        config = {}
    lines = [r for r in log if r["event"] == "logged"]
    state, kind = _state(log)
    parts = [
        f'<header><h1>{escape(name)}</h1><span class="state {kind}">{escape(state)}</span>'
        + "".join(f'<span class="sub">{escape(fact)}</span>' for fact in facts[:1])
        + "</header>",
        _tiles(log, lines, config),
        _pictures(log, folder.path, picture),
        _curves(log, lines, config),
        _list("Notices", [*_notices(log), *_skipped_images(facts)]),
        _list("Data and machine", facts),
        _settings(config),
        f"<footer>Written by undye {escape(str(config.get('about', {}).get('undye', '')))} on "
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z} from <code>log.jsonl</code>, <code>config.toml</code> and "
        "<code>samples/</code> beside this file, where all numbers are. The curves follow the averaged (EMA) weights "
        "only where they say so.</footer>",
    ]
    return PAGE.format(title=escape(name), style=STYLE, body="\n".join(filter(None, parts)), script=SCRIPT)


def _state(log: Sequence[Record]) -> tuple[str, str]:
    """How the run stands, and the CSS class of that."""
    for record in reversed(log):
        if record["event"] == "finished":
            return ("finished", "finished") if record["completed"] else ("stopped, can be resumed", "stopped")
        if record["event"] == "failed":
            return "ended with an error", "failed"
    return "running when this was written", "running"


def _tiles(log: Sequence[Record], lines: Sequence[Record], config: Mapping[str, Any]) -> str:
    step = max((r.get("step", 0) for r in log), default=0)
    total = config.get("training", {}).get("steps")
    elapsed = max((r["elapsed"] for r in log if isinstance(r.get("elapsed"), int | float)), default=0.0)
    tiles = [("step", f"{step:,}" + (f" of {total:,}" if total else "")), ("time", clock(elapsed))]
    if losses := _points(lines, "loss"):
        tiles.append(("loss", f"{losses[-1][1]:.4g}"))
    if measured := [r for r in log if r["event"] == "measured"]:
        tiles.append(("bits/dim, held out", f"{measured[-1]['bits_per_dim']:.3f}"))
    if rates := _points(lines, "images_per_second"):
        tiles.append(("images per second", number(rates[-1][1])))
    memories = [r.get("device_memory") or r.get("memory") for r in lines]
    if memory := max((m for m in memories if m), default=0):
        tiles.append(("most memory", show_bytes(memory)))
    if skipped := sum(r.get("skipped") or 0 for r in lines):
        tiles.append(("steps skipped", f"{skipped:,}"))
    boxes = (f'<div class="tile"><span>{name}</span><b>{value}</b></div>' for name, value in tiles)
    return f'<div class="tiles">{"".join(boxes)}</div>'


def _pictures(log: Sequence[Record], run: Path, picture: Callable[[Path], str]) -> str:
    found = {r["step"]: run / r["path"] for r in log if r["event"] == "previewed"}
    there = [(step, path) for step, path in sorted(found.items()) if path.exists()]
    if not there:
        return ""
    count = min(PICTURES, len(there))
    chosen = [there[round(i * (len(there) - 1) / max(1, count - 1))] for i in range(count)]
    figures = "".join(
        f'<figure><img src="{picture(path)}" alt="samples"><figcaption>step {step:,}</figcaption></figure>'
        for step, path in chosen
    )
    shown = f" {count} of {len(there)} grids;" if count < len(there) else ""
    return (
        f'<h2>Samples</h2><div class="card"><figcaption><small>Always from the same noise, by the averaged weights;'
        f"{shown} time runs to the right.</small></figcaption>"
        '<div class="gallery"><figure class="viewer" hidden><img alt="">'
        '<input type="range" min="0" aria-label="step of the samples"><figcaption></figcaption></figure>'
        f'<div class="strip">{figures}</div></div></div>'
    )


def _curves(log: Sequence[Record], lines: Sequence[Record], config: Mapping[str, Any]) -> str:
    if not lines:
        return "<h2>Curves</h2><p>Nothing has been logged yet.</p>"
    spikes = [r["step"] for r in log if r["event"] == "spiked"]
    losses = _points(lines, "loss", positive=True)
    buckets = [
        [(r["step"], r["buckets"][k]) for r in lines if len(r.get("buckets") or ()) > k and _positive(r["buckets"][k])]
        for k in range(10)
    ]
    num_steps = config.get("model", {}).get("schedule", {}).get("num_steps", 0)
    bounds = bucket_bounds(num_steps)
    measured = [r for r in log if r["event"] == "measured" and _finite(r["bits_per_dim"])]
    first = measured[0] if measured else {"images": 0, "draws": 0}
    kinds = (("main memory", "memory", "main"), ("GPU, highest", "device_memory", "second"))
    memory = [Line(name, [(x, y / 1e9) for x, y in gathered(_points(lines, key))], style) for name, key, style in kinds]
    charts = [
        chart(
            "Training loss (logarithmic)",
            [Line("as logged", extremes(losses), "raw"), Line("smoothed", smoothed(losses))],
            log=True,
            marks=spikes,
            note="Dashed: the loss has jumped." if spikes else "",
            wide=True,
        ),
        chart(
            "Bits per dimension of held-out images (averaged weights)",
            [
                Line(
                    "",
                    [(r["step"], r["bits_per_dim"]) for r in measured],
                    errors=[r["standard_error"] if _finite(r["standard_error"]) else 0.0 for r in measured],
                )
            ],
            note=f"The variational bound of {first['images']:,} images, {first['draws']} times drawn for each, always "
            "the same; bars: one standard error over the images.",
        ),
        chart(
            "Loss by timestep (logarithmic)",
            [
                Line(f"t {low:,} to {high:,}", smoothed(points), f"t{k}")
                for k, (points, (low, high)) in enumerate(zip(buckets, bounds, strict=True))
            ],
            log=True,
            note="Unweighted, smoothed; low t is little noise.",
        ),
        chart(
            "Norm of the gradient before clipping (logarithmic)",
            [
                Line("as logged", extremes(_points(lines, "grad_norm", positive=True)), "raw"),
                Line("smoothed", smoothed(_points(lines, "grad_norm", positive=True))),
            ],
            log=True,
        ),
        chart("Learning rate", [Line("", gathered(_points(lines, "lr")))]),
        chart("Images per second", [Line("", gathered(_points(lines, "images_per_second")))]),
        chart("Memory in GB", memory),
        chart("Steps skipped, in all", [Line("", gathered(_running_total(lines)))]) if _running_total(lines) else "",
    ]
    return '<h2>Curves</h2><div class="charts">' + "".join(charts) + "</div>"


def _points(lines: Iterable[Record], key: str, positive: bool = False) -> Points:
    good = _positive if positive else _finite
    return [(r["step"], r[key]) for r in lines if good(r.get(key))]


def _running_total(lines: Iterable[Record]) -> Points:
    total, points = 0, []
    for record in lines:
        total += record.get("skipped") or 0
        points.append((record["step"], total))
    return points if total else []


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _notices(log: Sequence[Record]) -> list[str]:
    notices = []
    for r in log:
        match r["event"]:
            case "notice" | "failed":
                notices.append(f"step {r['step']:,}: {r['text']}")
            case "spiked":
                loss, usual = r["loss"], r["usual"]
                notices.append(f"step {r['step']:,}: the loss has jumped to {loss:.4g}, from about {usual:.4g}")
    return notices


def _skipped_images(facts: Sequence[str]) -> list[str]:
    """The lines of a data set's report: a heading, and indented names."""
    return [fact.strip() for fact in facts if fact.startswith(("skipped ", "  "))]


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    shown = "".join(f"<li>{escape(item)}</li>" for item in items[:100])
    more = f"<li>and {len(items) - 100:,} more</li>" if len(items) > 100 else ""
    return f'<h2>{escape(title)}</h2><div class="card"><ul>{shown}{more}</ul></div>'


def _settings(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    sections: dict[str, list[tuple[str, Any]]] = {}
    _collect(config, "run", sections)
    rows = []
    for title, pairs in sections.items():
        rows.append(f'<tr><th colspan="2">{escape(title)}</th></tr>')
        for key, value in pairs:
            rows.append(f"<tr><td>{escape(key)}</td><td><code>{escape(_shown(value))}</code></td></tr>")
    return (
        '<h2>Settings</h2><div class="card"><details open><summary>config.toml</summary>'
        f"<table>{''.join(rows)}</table></details></div>"
    )


def _collect(data: Mapping[str, Any], title: str, sections: dict[str, list[tuple[str, Any]]]) -> None:
    plain = [(key, value) for key, value in data.items() if not isinstance(value, dict)]
    if plain:
        sections[title] = plain
    for key, value in data.items():
        if isinstance(value, dict):
            _collect(value, key if title == "run" else f"{title}.{key}", sections)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
