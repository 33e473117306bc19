"""`undye eval` and `undye compare` as a user meets them: the table, the files, one-line errors, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undye.checkpoint.native import save
from undye.cli.main import main
from undye.metrics import measuring, quality

from ..metrics.features import Projections
from ..metrics.test_nll import model, pixels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    save(folder / "model", model())
    save(folder / "classes", model(num_classes=3))
    np.savez(folder / "data.npz", images=pixels(60, 5))
    np.savez(folder / "made.npz", images=pixels(50, 7))
    np.savez(folder / "dark.npz", images=pixels(50, 8) // 2)
    np.savez(folder / "few.npz", images=pixels(9, 9))
    np.savez(folder / "wide.npz", images=np.zeros((20, 9, 9, 1), np.uint8))
    return folder


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quality, "RESAMPLES", 20)

    def projections(what, device=None):
        return what if isinstance(what, Projections) else Projections(int(what))

    monkeypatch.setattr(measuring, "load_extractor", projections)
    monkeypatch.setattr("undye.metrics.compare.load_extractor", projections)


def run(*args: object) -> int:
    return main([str(a) for a in args])


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line of a wrong call."""
    capsys.readouterr()
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith("undye: error: ")
    assert err.count("\n") == 1
    return err


def test_a_table_a_report_a_picture_and_a_card(place, tmp_path, capsys):
    args = ["eval", place / "model", "--data", place / "data.npz", "--metrics", "fid", "kid", "is", "pr", "neighbours"]
    args += ["--n", 30, "--sampler", "ddim", "--sampler-options", "eta=0.5", "clip=false", "--sample-steps", 2]
    args += ["--sample-grid", "quadratic", "--features", 0, "--device", "cpu", "--samples", tmp_path / "kept"]
    out, near = tmp_path / "r.json", tmp_path / "near.png"
    assert run(*args, "--out", out, "--neighbours", near, "--card") == 0
    text = capsys.readouterr().out
    for part in ("FID ", "KID ", "IS ", "recall", "! FID: n = 30 is below 10,000", "quadratic", str(out), str(near)):
        assert part in text, part
    report = json.loads(out.read_text())
    assert report["samples"]["sampler"] == {"name": "ddim", "clip": False, "eta": 0.5}
    assert report["samples"]["grid"] == "quadratic"
    assert report["samples"]["folder"].startswith(str(tmp_path / "kept"))
    assert Image.open(near)
    card = (place / "model" / "README.md").read_text()
    assert "FID-infinity" in card
    for said in (card, text):
        assert "ddim (clip False, eta 0.5), 2 steps (quadratic), seed 0" in said
    assert run(*args) == 0
    assert "30 of them kept from before" in capsys.readouterr().out


def test_images_of_another_tool(place, capsys):
    assert run("eval", place / "made.npz", "--data", place / "data.npz", "--metrics", "fid", "--features", 0) == 0
    text = capsys.readouterr().out
    assert "images  " in text
    assert "50 samples beside 60 images" in text


def test_compare(place, tmp_path, capsys):
    out = tmp_path / "c.json"
    args = ["compare", place / "made.npz", place / "dark.npz", place / "model", "--data", place / "data.npz"]
    args += ["--n", 40, "--sampler", "ddim", "--sample-steps", 2, "--features", 0, "--device", "cpu", "--out", out]
    assert run(*args) == 0
    text = capsys.readouterr().out
    assert "FID" in text
    assert f"FID: {place / 'dark.npz'} is worse" in text
    report = json.loads(out.read_text())
    assert report["numbers"]["fid"]["best"] == str(place / "made.npz")
    assert len(report["models"]) == 3


def test_compare_likelihoods(place, tmp_path, capsys):
    out = tmp_path / "c.json"
    args = ["compare", place / "model", place / "classes", "--data", place / "data.npz", "--metrics", "nll", "ode"]
    args += ["--n", 6, "--steps", 5, "--grid", "quadratic", "--clip", "True", "--variance", "fixed_large"]
    args += ["--tolerance", 0.1, "--sigma-min", 0.01, "--repeats", 2, "--seed", 3, "--device", "cpu", "--out", out]
    assert run(*args, "--draws", 2) == 0
    text = capsys.readouterr().out
    assert "NLL, ODE: bits/dim of 6 of 60 images of " in text
    assert "paired)" in text
    for found in json.loads(out.read_text())["models"]:
        nll, ode = found["metrics"]["nll"], found["metrics"]["ode"]
        assert {"n": 6, "steps": 5, "grid": "quadratic", "draws": 2, "seed": 3}.items() <= nll.items()
        assert {"clip": True, "variance": "fixed_large"}.items() <= nll.items()
        assert {"n": 6, "repeats": 2, "tolerance": 0.1, "sigma_min": 0.01}.items() <= ode.items()
    assert run(*args, "--exact") == 0
    assert json.loads(out.read_text())["models"][0]["metrics"]["nll"]["exact"]


def test_compare_tells_models_the_classes(place, tmp_path, capsys):
    data, out = tmp_path / "labelled.npz", tmp_path / "c.json"
    np.savez(data, images=pixels(6), labels=np.arange(6) % 3)
    args = ["compare", place / "classes", place / "classes", "--data", data, "--metrics", "nll", "--out", out]
    assert run(*args, "--labels", "auto", "--device", "cpu") == 0
    report = json.loads(out.read_text())
    assert [m["data"]["labels"] for m in report["models"]] == [True, True]
    assert report["numbers"]["nll"]["models"][1]["to_first"]["value"] == 0


def test_compare_by_what_is_no_single_number(place, tmp_path, capsys):
    """The curve, each class, copies, neighbours: their own tables, and flags that they need."""
    data, unseen, out = tmp_path / "labelled.npz", tmp_path / "unseen.npz", tmp_path / "c.json"
    np.savez(data, images=pixels(60, 5), labels=np.arange(60) % 3)
    np.savez(unseen, images=pixels(40, 9))
    other = tmp_path / "other"
    save(other, model(num_classes=3, clip_x_0=False))
    args = ["compare", place / "classes", other, "--data", data, "--labels", "auto", "--held-out", unseen, "--n", 30]
    args += ["--metrics", "rate-distortion", "fid-per-class", "memorization", "neighbours", "--sampler", "ddim"]
    args += ["--sample-steps", 2, "--features", 0, "--device", "cpu", "--out", out]
    assert run(*args) == 0
    text = capsys.readouterr().out
    for part in (
        "rate-distortion: bits/dim of 30 of 60 images of ", "bits/dim at which an image's", "FID of each class",
        "distance to the nearest training image, of 60\n(near copies: the share beyond the 4.2 % of ", "median RMS",
        "nearest training image of the first samples, median, of 60", "in features", "mean FID of classes: ",
    ):  # fmt: skip
        assert part in text, part
    report = json.loads(out.read_text())
    assert report["numbers"]["mean fid of classes"]["metric"] == "fid-per-class"
    assert report["models"][0]["data"]["labels"] is True
    assert report["models"][0]["metrics"]["memorization"]["held_out"]["n"] == 30


def test_a_metric_that_fails_after_others(place, tmp_path, capsys):
    out = tmp_path / "r.json"
    args = ["eval", place / "few.npz", "--data", place / "data.npz", "--metrics", "kid", "is"]
    says = fails(capsys, *args, "--features", 0, "--out", out)
    assert "measured kid, but not is" in says
    assert json.loads(out.read_text())["metrics"].keys() == {"kid"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["model", "--metrics", "fid", "--n", "5"], "at least 7 samples"),
        (["model", "--metrics", "fid", "--data", "no/such"], "no/such"),
        (["model", "--metrics", "nll", "--sampler", "ddim"], "--sampler is for the metrics fid, kid"),
        (["model", "--metrics", "nll", "--features", "0"], "--features is for the metrics"),
        (["model", "--metrics", "fid", "--neighbours", "x.png"], "--neighbours is for the metric neighbours"),
        (["model", "--metrics", "fid", "--pairs", "x.png"], "--pairs is for the metric memorization"),
        (["model", "--metrics", "fid", "--labels", "auto"], "--labels is for the metrics nll"),
        (["model", "--metrics", "nll", "--held-out", "made.npz"], "--held-out is for the metric memorization"),
        (["model", "--metrics", "rate-distortion", "--draws", "3"], "--draws is for the metric nll"),
        (["model", "--metrics", "nll", "rate-distortion", "--draws", "3"], "which take every step: leave it out"),
        (["model", "--metrics", "neighbours", "--neighbours", "x.jpg"], "give a .png"),
        (["model", "--metrics", "fid", "--sampler-options", "eta=1"], "say which"),
        (["model", "--metrics", "fid", "--sampler", "ddim", "--sampler-options", "et=1"], "no option 'et'"),
        (["model", "--metrics", "fid", "--sampler", "ddim", "--sampler-options", "eta"], "KEY=VALUE"),
        (["model", "--metrics", "fid", "--sampler", "eulr"], "eulr"),
        (["model", "--metrics", "fit"], "fit"),
        (["model", "--metrics", "fid-per-class"], "trained with labels"),
        (["classes", "--metrics", "fid-per-class"], "reference set with classes"),
        (["model", "--metrics", "fid", "--set", "a=1"], "other projects' models"),
        (["made.npz", "--metrics", "nll"], "nll is what a model says"),
        (["made.npz", "--metrics", "fid", "--weights", "raw"], "holds images"),
        (
            ["made.npz", "--metrics", "fid", "--batch-size", "5"],
            "--batch-size is for models, and made.npz holds images",
        ),
        (["made.npz", "--metrics", "fid", "--card"], "--card is for models, and made.npz holds images"),
        (["model", "--metrics", "fid", "--channels", "3"], "channel"),
        (["model", "--metrics", "memorization", "kid", "--held-out", "few.npz"], "10 held-out images, few.npz has 9"),
        (["model", "--metrics", "memorization", "kid", "--held-out", "wide.npz"], "are (9, 9, 1), the"),
    ],
)
def test_wrong_calls(place, tmp_path, monkeypatch, capsys, args, says):
    monkeypatch.chdir(place)
    data = [] if "--data" in args else ["--data", "data.npz"]
    features = ["--features", "0"] if "--features" not in args and "nll" not in args else []
    assert says in fails(capsys, "eval", *args, *data, *features, "--device", "cpu")
    assert not (tmp_path / "cache" / "samples").exists(), "nothing was drawn"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["made.npz"], "at least two"),
        (["made.npz", "nowhere"], "nowhere"),
        (["made.npz", "dark.npz", "--out", "x.txt"], ".json"),
        (["model", "dark.npz", "--metrics", "kid", "nll"], "dark.npz holds images: leave it out, or compare"),
        (["model", "dark.npz", "--metrics", "kid", "rate-distortion"], "dark.npz holds images: leave it out"),
        (
            ["model", "model", "--metrics", "fit"],
            "did you mean fid? choose from nll, rate-distortion, ode, ",
        ),
        (["model", "model", "--metrics", "fid", "--draws", "3"], "--draws is for the metric nll"),
        (["model", "model", "--metrics", "fid", "--exact"], "--exact is for the metrics nll, rate-distortion"),
        (["model", "model", "--metrics", "kid", "nll", "--sigma-min", "1"], "--sigma-min is for the metric ode"),
        (["model", "model", "--metrics", "fid", "--labels", "auto"], "--labels is for the metrics nll"),
        (["model", "model", "--metrics", "nll"], "--features is for the metrics fid"),
        (["model", "model", "--metrics", "kid", "nll", "--exact", "--draws", "3"], "which take every step"),
        (["made.npz", "dark.npz", "--metrics", "kid", "--held-out", "x"], "--held-out is for the metric memorization"),
        (["made.npz", "dark.npz", "--metrics", "memorization", "kid"], "give --held-out"),
        (["model", "model", "--metrics", "fid-per-class"], "trained with labels"),
        (
            ["made.npz", "dark.npz", "--metrics", "kid", "--sampler", "ddim"],
            "--sampler is for models, and made.npz, dark",
        ),
        (["made.npz", "dark.npz", "--metrics", "kid", "--guidance", "2"], "--guidance is for models"),
        (["made.npz", "dark.npz", "--metrics", "kid", "--weights", "raw"], "--weights raw is for models"),
        (["made.npz", "dark.npz", "--metrics", "kid", "--set", "T=5"], "--set is for models"),
        (["made.npz", "dark.npz", "--metrics", "neighbours", "--neighbours", "x.png"], "--neighbours"),
    ],
)
def test_wrong_comparisons(place, tmp_path, monkeypatch, capsys, args, says):
    monkeypatch.chdir(place)
    assert says in fails(capsys, "compare", *args, "--data", "data.npz", "--features", "0")
    assert not (tmp_path / "cache" / "samples").exists(), "nothing was drawn"
