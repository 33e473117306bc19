"""`undye.compare` by what is no single number: curves, classes, copies, neighbours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import undye
from undye.checkpoint.native import save
from undye.cli.compare_table import compare_table
from undye.metrics import quality
from undye.metrics.numbers import READERS, Number, numbers_of

from .features import Projections
from .test_compare import row, spoiled
from .test_nll import model, pixels

DRAWN = {"sampler": "ddim", "sample_steps": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quality, "RESAMPLES", 100)


def labelled(path: Path, n: int, seed: int, dark: int | None = None) -> Path:
    """Noise of three classes, one of them dark."""
    images, labels = pixels(n, seed), np.arange(n) % 3
    if dark is not None:
        images[labels == dark] //= 2
    np.savez(path, images=images, labels=labels)
    return path


def plain(entry: Any) -> Any:
    """Without what says where the samples lie, and how many were kept."""
    return {k: v for k, v in entry.items() if k != "recipe"}


def test_each_model_has_the_numbers_that_evaluate_reports(tmp_path):
    """All metrics at once, of two models with classes: paired, and equal to what each has alone."""
    data = labelled(tmp_path / "data.npz", 90, 5)
    models = [save(tmp_path / "a", model(num_classes=3)), save(tmp_path / "b", model(num_classes=3, clip_x_0=False))]
    metrics = ["nll", "rate-distortion", "fid", "fid-per-class", "memorization", "neighbours"]
    options = {"n": 60, "features": Projections(), "held_out": pixels(70, 8), "labels": "auto", **DRAWN}
    report = undye.compare(models, data, metrics, **options, out=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    for k, path in enumerate(models):
        alone = undye.evaluate(path, data, metrics, **options)
        for metric in metrics:
            assert plain(report["models"][k]["metrics"][metric]) == plain(alone["metrics"][metric]), metric
            for number, told in numbers_of(metric, alone["metrics"][metric]).items():
                assert row(report, number, str(path))["value"] == told.value, number
                assert report["numbers"][number]["metric"] == metric
    for number in ("mean fid of classes", "fid of 0", "near copies", "distance to training", "nearest in pixels"):
        assert row(report, number, str(models[1]))["to_first"]["paired"], number
    text = "\n".join(compare_table(report))
    assert "near copies: the share beyond the 2.6 % of chance" in text
    assert "FID of each class" in text
    rates = [name for name in report["numbers"] if name.startswith("rate at RMSE")]
    reached = [at for at in report["models"][0]["metrics"]["rate-distortion"]["at_rmse"] if at["rate_bits_per_dim"]]
    assert len(rates) >= len(reached)


def test_a_class_that_is_off_is_found_and_only_that(tmp_path):
    data = labelled(tmp_path / "data.npz", 600, 1)
    sets = [labelled(tmp_path / f"{k}.npz", 300, 2 + k, 2 if k == 2 else None) for k in range(3)]
    report = undye.compare(sets, data, "fid-per-class", features=Projections(), labels="auto", device="cpu")
    names = [str(path) for path in sets]
    worst = {number: row(report, number, names[2])["to_best"] for number in report["numbers"]}
    assert worst["fid of 2"]["real"]
    assert worst["fid of 2"]["low"] > 0
    assert worst["mean fid of classes"]["real"]
    assert not worst["fid of 2"]["paired"]
    fair = [
        row(report, number, name)["to_best"] for number in report["numbers"] for name in names[:2]
    ]  # fmt: skip
    assert sum(d is not None and d["real"] for d in fair) <= 1
    text = "\n".join(compare_table(report))
    assert f"FID of 2: {names[2]} is worse than " in text
    assert "the differences are not real" in text


def test_means_over_other_classes_do_not_compare(tmp_path):
    data, whole = labelled(tmp_path / "data.npz", 300, 1), labelled(tmp_path / "whole.npz", 120, 2)
    with np.load(whole) as file:
        keep = file["labels"] != 1
        np.savez(tmp_path / "part.npz", images=file["images"][keep], labels=file["labels"][keep])
    report = undye.compare(
        [whole, tmp_path / "part.npz"], data, "fid-per-class", features=Projections(), device="cpu"
    )  # fmt: skip
    assert report["numbers"]["mean fid of classes"]["best"] is None
    assert row(report, "mean fid of classes", str(tmp_path / "part.npz"))["to_first"] is None
    assert [r["name"] for r in report["numbers"]["fid of 1"]["models"]] == [str(whole)]
    assert row(report, "fid of 0", str(whole))["value"] > 0
    said = f"cannot be told from {whole}: it is a mean over other classes"
    assert said in "\n".join(compare_table(report))


def test_classes_are_matched_by_name_or_refused(tmp_path):
    """Never by their place in an alphabet: class b of one is not class a of another."""
    data = tmp_path / "data"
    for name, classes, seed in (("data", "ab", 1), ("b", "b", 2), ("bc", "bc", 3)):
        for k, image in enumerate(pixels(60, seed)):
            folder = tmp_path / name / classes[k % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, :, 0]).save(folder / f"{k}.png")
    report = undye.evaluate(
        tmp_path / "b", data, ["fid-per-class"], features=Projections(), labels="folders", device="cpu"
    )  # fmt: skip
    entry = report["metrics"]["fid-per-class"]
    assert [(c["name"], c["n"]) for c in entry["classes"]] == [("a", 0), ("b", 60)]
    assert entry["flags"][-1] == "not on both sides: a"
    with pytest.raises(undye.UserError, match="bc has the class 'c', the reference set only a, b"):
        undye.evaluate(tmp_path / "bc", data, ["fid-per-class"], features=Projections(), labels="folders", device="cpu")


def test_classes_that_are_too_small_have_no_verdict(tmp_path):
    data = labelled(tmp_path / "data.npz", 300, 1)
    small = [labelled(tmp_path / f"{k}.npz", 18, 2 + k) for k in range(2)]
    report = undye.compare(small, data, "fid-per-class", features=Projections(), device="cpu")
    for number, found in report["numbers"].items():
        assert [r["to_best"] for r in found["models"]] == [None, None], number
    text = "\n".join(compare_table(report))
    assert "no interval" in text
    assert "the differences are not real" not in text, "nobody knows"
    assert "too few images for a covariance of full rank: 0, 1, 2" in text


def test_copies_are_found(tmp_path):
    """One set is the training images with a little noise; the others are as far off as unseen images."""
    train = pixels(200, 1)
    copies = np.clip(train[:100] + np.random.default_rng(0).integers(-1, 2, (100, 8, 6, 1)), 0, 255).astype(np.uint8)
    sets = [pixels(100, 2), copies, pixels(100, 3)]
    report = undye.compare(sets, train, ["memorization", "neighbours"], held_out=pixels(150, 4), features=Projections())
    worse = row(report, "near copies", "array (2)")
    assert report["numbers"]["near copies"]["best"] in ("array (1)", "array (3)")
    assert worse["value"] > 0.9
    assert worse["to_best"]["real"]
    for number in ("farther than unseen", "distance to training", "nearest in pixels", "nearest in features"):
        found = report["numbers"][number]
        assert found["lower_is_better"] is None
        assert found["best"] is None
        off, like = (row(report, number, f"array ({k})") for k in (2, 3))
        assert off["to_best"] is None
        assert off["to_first"]["real"]
        assert off["to_first"]["high"] < 0
        assert not like["to_first"]["real"], number
    assert row(report, "farther than unseen", "array (2)")["value"] < 0.01
    text = "\n".join(compare_table(report))
    assert "near copies: array (2) is worse than " in text
    assert "nearest in pixels: array (2) is below array (1), the difference is real" in text
    assert "nearest in pixels: array (3) may be the same as array (1), the difference is not real" in text
    assert "near copies: array (3)" in text


def test_copies_beside_other_unseen_images_do_not_compare():
    """As many held-out images are taken as there are samples; with fewer more is near by chance."""
    report = undye.compare([pixels(100, 2), pixels(50, 3)], pixels(200, 1), "memorization", held_out=pixels(150, 4))
    for number in ("near copies", "farther than unseen"):
        assert report["numbers"][number]["best"] is None
        assert row(report, number, "array (2)")["to_first"] is None
    assert row(report, "distance to training", "array (2)")["to_first"] is not None
    assert "cannot be told from array (1): they lie beside other unseen images" in "\n".join(compare_table(report))


def test_a_spoiled_model_needs_more_bits_for_the_same_error(monkeypatch):
    """Models whose curves cross an error: paired over the images, like nll."""
    monkeypatch.setattr("undye.metrics.likelihoods.RMSES", (60.0, 1e-3))
    report = undye.compare([model(), model(), spoiled(0.05)], pixels(40, 5), "rate-distortion", n=24, device="cpu")
    assert list(report["numbers"]) == ["rate at RMSE 60"], "none reaches the other"
    found = report["numbers"]["rate at RMSE 60"]
    assert found["lower_is_better"]
    again = row(report, "rate at RMSE 60", "model (2)")["to_first"]
    assert (again["value"], again["real"], again["paired"]) == (0, False, True)
    curve = report["models"][2]["metrics"]["rate-distortion"]
    below = next(k for k, rmse in enumerate(curve["rmse"]) if rmse <= 60)
    value = row(report, "rate at RMSE 60", "model (3)")["value"]
    assert curve["rate_bits_per_dim"][below - 1] <= value <= curve["rate_bits_per_dim"][below]
    assert curve["at_rmse"][0]["interval"]["low"] < value < curve["at_rmse"][0]["interval"]["high"]
    assert "rate-distortion: bits/dim of 24 of 40 images of array" in "\n".join(compare_table(report))


def test_every_metric_has_its_numbers():
    assert set(READERS) == set(undye.metrics.requests.METRICS)
    assert numbers_of("fid", None) == {}
    assert numbers_of("kid", {"value": None, "n": 3}) == {}, "a report has None for NaN"
    assert numbers_of("is", {"value": 2.0, "n": 3}) == {"is": Number(2.0, False, ("samples", 3))}
