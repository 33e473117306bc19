"""`undye.compare`: the same seeds, one table, and verdicts that are right on models whose difference is known."""

import json
from pathlib import Path

import numpy as np
import pytest

import undye
from undye.checkpoint.native import save
from undye.cli.eval_table import compare_table
from undye.metrics import quality
from undye.metrics.findings import UnfinishedReport

from .features import Projections
from .test_nll import model, pixels


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quality, "RESAMPLES", 100)
    return tmp_path / "cache"


def compared(models, metrics=("fid", "kid"), **options) -> dict:
    return undye.compare(models, pixels(200, 5), metrics, features=Projections(), device="cpu", **options)


def dark(n: int, seed: int) -> np.ndarray:
    return (pixels(n, seed) * 0.8).astype(np.uint8)


def row(report: dict, number: str, name: str) -> dict:
    return next(r for r in report["numbers"][number]["models"] if r["name"] == name)


def test_images_whose_difference_is_known(tmp_path):
    for name, images in (("good", pixels(150, 1)), ("same", pixels(150, 4)), ("dark", dark(150, 3))):
        np.save(tmp_path / f"{name}.npy", images)
    names = [str(tmp_path / f"{k}.npy") for k in ("good", "same", "dark")]
    report = compared([Path(n) for n in names], ["fid", "kid", "pr"], out=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    for number in ("fid", "kid"):
        found = report["numbers"][number]
        assert found["best"] in names[:2]
        other = next(n for n in names[:2] if n != found["best"])
        assert row(report, number, found["best"])["to_best"] is None
        bad, fair = row(report, number, names[2])["to_best"], row(report, number, other)["to_best"]
        assert bad["real"]
        assert bad["low"] > 0
        assert bad["p_value"] < 0.05
        assert not fair["real"]
        assert not bad["paired"]
    assert not report["numbers"]["precision"]["lower_is_better"]
    assert row(report, "fid", names[0])["to_first"] is None
    text = "\n".join(compare_table(report))
    assert f"FID: {names[2]} is worse than " in text
    assert "may be as good" in text
    assert text.count("*") >= 4


def test_models_draw_with_the_same_seeds_and_are_paired(tmp_path):
    a, b = model(), model()
    next(b.parameters()).data += 1e-6
    folders = [save(tmp_path / "a", a), save(tmp_path / "b", b)]
    report = compared(folders, n=60, sampler="ddim", sample_steps=2)
    assert [m["samples"]["seed"] for m in report["models"]] == [0, 0]
    assert [m["samples"]["n"] for m in report["models"]] == [60, 60]
    second = row(report, "kid", str(folders[1]))["to_first"]
    first_value = abs(row(report, "kid", str(folders[0]))["value"])
    assert second["paired"]
    # nearly the same samples: the pairing takes what they share out of the interval
    assert second["high"] - second["low"] < 0.05 * first_value
    mixed = compared([folders[0], pixels(60, 1)], n=60, sampler="ddim", sample_steps=2)
    assert not row(mixed, "kid", "array")["to_first"]["paired"]
    assert mixed["models"][0]["samples"]["kept"] == 60


def test_each_side_is_what_evaluate_says(tmp_path):
    both = compared([pixels(60, 1), dark(60, 2)], ["fid"])
    alone = undye.evaluate(pixels(60, 1), pixels(200, 5), "fid", features=Projections(), device="cpu")
    assert both["models"][0]["metrics"]["fid"]["value"] == alone["metrics"]["fid"]["value"]
    assert [m["name"] for m in both["models"]] == ["array (1)", "array (2)"]


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ([pixels(60)], {}, "at least two"),
        ([pixels(60), pixels(60)], {"metrics": ["nll"]}, "not by nll"),
        ([pixels(60), "no/such/model"], {}, "no model at no/such/model"),
        ([pixels(60), pixels(60)], {"features": "no-such"}, "no-such"),
        ([pixels(60), pixels(60)], {"metrics": ["fit"]}, "not by fit"),
    ],
)
def test_wrong_calls(models, options, says):
    with pytest.raises(undye.UserError, match=says):
        undye.compare(models, pixels(200, 5), **{"features": Projections(), "device": "cpu", **options})


def test_a_failing_side_leaves_the_others():
    with pytest.raises(UnfinishedReport, match=r"pr of array \(2\)") as raised:
        compared([pixels(60, 1), pixels(5, 2)], ["pr", "kid"])
    report = raised.value.report
    assert len(report["numbers"]["kid"]["models"]) == 2
    assert len(report["numbers"]["precision"]["models"]) == 1
    assert compare_table(report)


def test_a_side_that_cannot_be_measured_at_all_leaves_the_others(tmp_path):
    wide = np.zeros((60, 9, 9, 1), np.uint8)
    with pytest.raises(UnfinishedReport, match=r"not measured: array \(2\): the images of array are 9x9") as raised:
        compared([pixels(60, 1), wide, dark(60, 3)], ["kid"], out=tmp_path / "r.json")
    report = raised.value.report
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert list(report["failed"]) == ["array (2)"]
    assert [r["name"] for r in report["numbers"]["kid"]["models"]] == ["array (1)", "array (3)"]
    assert row(report, "kid", "array (3)")["to_first"]["real"]
    assert "! array (2): not measured (the images of" in "\n".join(compare_table(report))
    with pytest.raises(undye.UserError, match="9x9") as every:
        compared([wide, wide])
    assert not isinstance(every.value, UnfinishedReport)


@pytest.mark.parametrize("reference", [200, 1500])
def test_equals_are_seldom_called_different_in_recall_and_coverage(reference):
    """Other samples open and close balls, however many reference images there are."""
    called = {"recall": 0, "coverage": 0}
    for i in range(0, 40, 2):
        report = undye.compare(
            [pixels(120, 100 + i), pixels(120, 101 + i)], pixels(reference, 5), "pr", features=Projections(),
            device="cpu", seed=i,
        )  # fmt: skip
        for number, count in called.items():
            rows = report["numbers"][number]["models"]
            called[number] = count + any(r["to_best"] is not None and r["to_best"]["real"] for r in rows)
    assert max(called.values()) <= 3, "one of twenty, with a standard error of one"
