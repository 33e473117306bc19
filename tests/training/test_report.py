"""report.html: one file that needs nothing else, with all that happened, and safe whatever names hold."""

import io
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from undye.training import report
from undye.training.charts import POINTS, Line, chart, extremes, gathered, inert_json, number, smoothed
from undye.training.events import Event, Finished, Notice, Previewed, Saved, Started, StepDone
from undye.training.report import PICTURES, Report, data_uri
from undye.training.run import RunConfig
from undye.training.session import run

EVIL = "<script>alert(1)</script>&\"'"


class Tags(HTMLParser):
    """What a browser would see: elements, attributes, and text outside scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "elements are nested"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def log_line(step: int, **values: object) -> dict[str, object]:
    loss = 0.05 + math.exp(-step / 500)
    return {
        "event": "logged", "step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0 + loss, "images_per_second": 100.0,
        "elapsed": step / 10, "buckets": [loss * (k + 1) for k in range(10)], "skipped": 0, "memory": 500_000_000,
        "device_memory": None,
    } | values  # fmt: skip


def made(folder: Path, records: list[dict[str, object]], config: str = "", facts: tuple[str, ...] = ()) -> Tags:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.toml").write_text(config)
    view = Report(folder, lambda notice: pytest.fail(notice.text))
    view(Started(0, 100, facts))
    return Tags((folder / "report.html").read_text(encoding="utf-8"))


def grids(folder: Path, count: int) -> list[dict[str, object]]:
    (folder / "samples").mkdir(parents=True)
    records: list[dict[str, object]] = []
    for k in range(count):
        Image.fromarray(np.full((900, 700), 2 * k, np.uint8)).save(folder / "samples" / f"{k}.png")
        records.append({"event": "previewed", "step": k, "path": f"samples/{k}.png"})
    return records


def test_a_run_leaves_its_report(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, watch=replace(config.watch, nll_every=6, held_out=0.2, trackers=()))
    events: list[Event] = []
    run(config, tmp_path / "run", listeners=[events.append])
    assert not [e for e in events if isinstance(e, Notice)]
    page = Tags((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    for words in (
        "finished", "12 of 12", "Training loss", "Bits per dimension of held-out images", "Loss by timestep",
        "Norm of the gradient", "Learning rate", "Images per second", "Memory in GB", "t 91 to 100", "batch_size",
        "16 images 8x8x1", "compact network", "always from the same noise",
    ):  # fmt: skip
        assert words.lower() in page.text.lower(), words
    assert page.count("svg") == 7
    assert [e["alt"] for tag, e in page.elements if tag == "img"] == ["", "samples"]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = made(tmp_path, [log_line(1), log_line(50), *grids(tmp_path, 2)])
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert not value or value.startswith("data:image/jpeg;base64,")
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|@import|url\(|fetch\(", text)


def test_whatever_names_hold_is_text(tmp_path: Path) -> None:
    config = f"data = {json.dumps(EVIL)}\n[training]\n{json.dumps(EVIL)} = 1\n[{json.dumps(EVIL)}]\nx = 1\n"
    records = [log_line(1), {"event": "notice", "step": 1, "text": EVIL}, {"event": "failed", "step": 1, "text": EVIL}]
    folder = tmp_path / "<img src=x onerror=alert(2)>"
    page = made(folder, records, config, (EVIL, "skipped 1 of 3 images:", f"  {EVIL}"))
    charts = page.count("svg")
    assert page.count("script") == charts + 1, "the page's own, and the numbers of each chart"
    assert page.count("img") == 0
    assert page.text.count("<script>alert(1)</script>") == 9
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "</script" not in inert_json({"name": "</script><!--"})
    assert json.loads(inert_json({"name": EVIL})) == {"name": EVIL}


def test_a_name_that_is_no_text_does_not_stop_it(tmp_path: Path) -> None:
    assert "caf?" in made(tmp_path, [log_line(1)], facts=("caf\udce9",)).text


def test_notices_spikes_and_skipped_images_are_listed(tmp_path: Path) -> None:
    records = [
        log_line(1), log_line(50, skipped=3),
        {"event": "spiked", "step": 50, "loss": 0.9, "usual": 0.1},
        {"event": "notice", "step": 60, "text": "wandb: no network"},
    ]  # fmt: skip
    page = made(tmp_path, records, facts=("my data", "skipped 1 of 3 images:", "  bad.png: truncated", "a network"))
    assert "step 50: the loss has jumped to 0.9, from about 0.1" in page.text
    assert "step 60: wandb: no network" in page.text
    notices = page.text[page.text.index("Notices") : page.text.index("Data and machine")]
    assert "bad.png: truncated" in notices
    assert "a network" not in notices
    assert "steps skipped 3" in page.text
    assert ("path", {"class": "mark"}) in [(tag, {"class": e.get("class")}) for tag, e in page.elements]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ({"event": "finished", "step": 1, "completed": True, "elapsed": 1.0}, "finished"),
        ({"event": "finished", "step": 1, "completed": False, "elapsed": 1.0}, "stopped, can be resumed"),
        ({"event": "failed", "step": 1, "text": "x"}, "ended with an error"),
        (log_line(2), "running"),
    ],
)
def test_the_state_of_the_run_is_told(tmp_path: Path, end: dict[str, object], says: str) -> None:
    assert says in made(tmp_path, [log_line(1), end]).text


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    """8,000 lines (400,000 steps) and 40 grids: the curves are thinned out, a spike stays to be seen."""
    records = [log_line(50 * k + 50, loss=100.0 if k == 7777 else 0.1) for k in range(8_000)]
    start = time.process_time()
    page = made(tmp_path, [*records, *grids(tmp_path, 40)])
    assert time.process_time() - start < 10
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    steps = [int(found[1]) for word in page.words if (found := re.fullmatch(r"step (\d+)", word))]
    assert len(steps) == PICTURES
    assert (steps[0], steps[-1]) == (0, 39)
    assert "16 of 40 grids" in page.text
    first = json.loads(re.findall(r'application/json">(.*?)</script>', (tmp_path / "report.html").read_text())[0])
    assert max(y for _, y in first["lines"][0]["points"]) == 100.0
    assert all(len(line["points"]) <= POINTS for line in first["lines"])


def test_pictures_are_bounded(tmp_path: Path) -> None:
    import base64

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 1000, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    raw = base64.b64decode(data_uri(tmp_path / "a.png").partition("base64,")[2])
    assert Image.open(io.BytesIO(raw)).size == (256, 512)


def test_half_a_line_no_line_and_nan_are_borne(tmp_path: Path) -> None:
    page = made(tmp_path, [])
    assert "Nothing has been logged yet" in page.text
    (tmp_path / "log.jsonl").write_text(
        json.dumps(log_line(1, loss=None, grad_norm=None, buckets=[None] * 10)) + '\n{"event": "logg'
    )
    Report(tmp_path, lambda notice: pytest.fail(notice.text))(Finished(1, True, 1.0))
    assert "Learning rate" in (tmp_path / "report.html").read_text()
    old = {k: v for k, v in log_line(2).items() if k not in ("buckets", "skipped", "memory", "device_memory")}
    assert "Loss by timestep" not in made(tmp_path, [old]).text, "a log of an older version"


def test_a_page_that_cannot_be_written_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "atomic_path", full)
    notices: list[Notice] = []
    view = Report(tmp_path, notices.append)
    for event in (Started(0, 1, ()), Finished(1, True, 1.0), Finished(1, True, 1.0)):
        view(event)
    assert len(notices) == 1
    assert "No space left" in notices[0].text


def test_it_is_not_written_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []

    def write(self: Report) -> Path:
        written.append(now[0])
        now[0] += 0.1  # what it takes
        return tmp_path

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Report, "write", write)
    view = Report(tmp_path)
    view(Started(0, 1000, ()))
    for step in range(1, 1001):
        now[0] += 0.1
        view(StepDone(step, 1.0, 1.0, 1.0, 4))
        if step in (10, 11, 12):
            view(Saved(step, tmp_path))
            view(Previewed(step, tmp_path))
    view(Finished(1000, True, 1.0))
    assert len(written) == 3, "at the start, once for all that was saved soon after, and at the end"
    assert written[1] == pytest.approx(report.REST * 0.1 + 0.1, abs=0.15)


@pytest.mark.parametrize("points", [[(1.0, 3.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, 1e-9), (1e6, 1e9)], [(5.0, -2.0)]])
@pytest.mark.parametrize("log", [True, False])
def test_charts_of_any_numbers_are_well_formed(points: list[tuple[float, float]], log: bool) -> None:
    if log and any(y <= 0 for _, y in points):
        points = [(x, abs(y) + 1) for x, y in points]
    drawn = chart(EVIL, [Line(EVIL, points, errors=[0.5] * len(points)), Line("b", points)], log=log, marks=[1.0])
    svg = ElementTree.fromstring(re.findall(r"<svg.*</svg>", drawn)[0])
    assert "nan" not in drawn
    assert "inf" not in drawn
    for path in svg.iter("path"):
        for y in re.findall(r"[\d.]+ ([\d.]+)", path.attrib["d"]):
            assert 0 <= float(y) <= 250
    assert chart("empty", [Line("a", [])]) == ""


def test_ticks_are_round_and_few() -> None:
    for low, high in ((0.0, 7.3), (0.021, 0.029), (1e-5, 3e4), (0.9, 1.1), (0.0, 800_000.0)):
        for log in (False, True):
            if log and not low:
                continue
            drawn = chart("x", [Line("", [(0.0, low), (10.0, high)])], log=log)
            labels = re.findall(r'text-anchor="end">([^<]*)<', drawn)
            assert 2 <= len(labels) <= 9, (low, high, log, labels)
            assert len(set(labels)) == len(labels), (low, high, log, labels)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.0005, "5e-4"), (0.25, "0.25"), (1234.5, "1,234"), (2e6, "2e6"), (-3.0, "-3")]
)
def test_numbers_as_an_axis_shows_them(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("thin", [gathered, extremes, smoothed])
def test_thinning_keeps_few_points_in_order(thin: Callable) -> None:
    points = [(float(k), 1.0 + (k % 7)) for k in range(5000)]
    thinned = thin(points)
    assert POINTS // 3 < len(thinned) <= POINTS
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    assert all(1.0 <= y <= 7.0 for _, y in thinned)
    assert thin(points[:5])[-1][0] == 4.0
    assert thin([]) == []


def test_smoothing_does_not_lag() -> None:
    """An exponential is a straight line of logarithms, of which the two directions' delays cancel inside."""
    points = [(float(k), math.exp(-k / 500)) for k in range(2000)]
    smooth = dict(smoothed(points))
    inside = {x: y for x, y in smooth.items() if 500 < x < 1500}
    assert all(y == pytest.approx(math.exp(-(x - 3) / 500), rel=2e-3) for x, y in inside.items()), "means of 7 points"


def test_a_constant_stays_as_it_is() -> None:
    assert all(y == pytest.approx(0.3) for _, y in smoothed([(float(k), 0.3) for k in range(1000)]))
