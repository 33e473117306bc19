"""`undye.evaluate`: numbers with the recipe that makes them again."""

import json
from pathlib import Path

import numpy as np
import pytest

import undye
from undye.checkpoint.native import save

from .test_nll import T, model, pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m"
    save(path, model(), about={"data": "noise", "step": 7})
    return path


def test_a_report_is_plain_data_with_its_recipe(folder):
    report = undye.evaluate(folder, pixels(9), ["nll", "rate-distortion", "ode"], n=4, device="cpu", tolerance=1e-2)
    assert json.loads(json.dumps(report)) == report
    assert report["model"]["checkpoint"] == str(folder)
    assert report["model"]["step"] == 7
    assert report["model"]["weights"] == "ema"
    assert report["data"] == {
        "name": "array", "images": 9, "n": 4, "image_size": [8, 6], "channels": 1, "labels": False
    }  # fmt: skip
    nll, curve, ode = (report["metrics"][k] for k in ("nll", "rate-distortion", "ode"))
    assert nll["exact"] is True  # a curve needs every step, and gives the bound for nothing
    assert {"n", "steps", "grid", "draws", "clip", "variance", "seed"} <= set(nll)
    parts = {k: v["mean"] for k, v in nll["bits_per_dim"].items()}
    assert parts["total"] == pytest.approx(parts["prior"] + parts["rate"] + parts["decoder"])
    assert len(nll["per_t"]["t"]) == len(nll["per_t"]["x_0_mse"]) == len(curve["rmse"]) == T
    assert curve["rate_bits_per_dim"][-1] == pytest.approx(parts["prior"] + parts["rate"])
    assert ode["dequantisation"] == "uniform"
    assert ode["bits_per_dim"]["total"]["mean"] > 0
    assert ode["network_calls"] > 6


def test_monte_carlo_is_the_default_and_exact_is_there(folder):
    images = pixels(30)
    drawn = undye.evaluate(folder, images, draws=6, device="cpu")["metrics"]["nll"]
    exact = undye.evaluate(folder, images, draws=None, device="cpu")["metrics"]["nll"]
    assert (drawn["exact"], drawn["draws"], exact["exact"], exact["draws"]) == (False, 6, True, None)
    assert "per_t" not in drawn
    a, b = drawn["bits_per_dim"]["total"], exact["bits_per_dim"]["total"]
    assert abs(a["mean"] - b["mean"]) < 4 * a["standard_error"]
    assert drawn["bits_per_dim"]["prior"] == pytest.approx(exact["bits_per_dim"]["prior"])


def test_the_same_request_gives_the_same_numbers(folder):
    def total(**options):
        report = undye.evaluate(folder, pixels(12), n=5, device="cpu", draws=3, **options)
        return report["metrics"]["nll"]["bits_per_dim"]["total"]["mean"]

    assert total() == total()
    assert total(batch_size=3) == pytest.approx(total(), rel=1e-5)
    assert total() != total(seed=1)


def test_labels_of_the_data(tmp_path):
    data = tmp_path / "a.npz"
    np.savez(data, images=pixels(6), labels=np.arange(6) % 3)
    denoiser = model(num_classes=3)
    report = undye.evaluate(denoiser, data, labels="auto")
    assert report["data"]["labels"] is True
    assert report["model"]["checkpoint"] is None
    without = undye.evaluate(denoiser, data)
    assert report["metrics"]["nll"]["bits_per_dim"]["total"] != without["metrics"]["nll"]["bits_per_dim"]["total"]


def test_classes_are_matched_by_name(tmp_path):
    """A folder of dogs alone is class 1 of a model of cats and dogs, not class 0."""
    from PIL import Image

    for name in ("dogs", "wolves"):
        (tmp_path / name / name).mkdir(parents=True)
        for i, image in enumerate(pixels(2)):
            Image.fromarray(image[:, :, 0]).save(tmp_path / name / name / f"{i}.png")
    denoiser = model(num_classes=2, class_names=("cats", "dogs"))
    report = undye.evaluate(denoiser, tmp_path / "dogs", labels="folders", draws=None)
    images = np.stack([np.asarray(Image.open(p))[..., None] for p in sorted((tmp_path / "dogs" / "dogs").iterdir())])
    expected = undye.bits_per_dim(denoiser, images, label=1).total.mean()
    assert report["metrics"]["nll"]["bits_per_dim"]["total"]["mean"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(undye.UserError, match="no class 'wolves': its classes are cats, dogs"):
        undye.evaluate(denoiser, tmp_path / "wolves", labels="folders")


def test_the_settings_reach_the_measurement(folder):
    def nll(**options):
        return undye.evaluate(folder, pixels(4), "nll", device="cpu", draws=None, **options)["metrics"]["nll"]

    usual = nll()
    for options in ({"clip": False}, {"variance": "fixed_large"}, {"steps": 5}, {"steps": 5, "grid": "quadratic"}):
        other = nll(**options)
        assert other["bits_per_dim"]["total"] != usual["bits_per_dim"]["total"], options
        for key, value in options.items():
            assert other[key] == value
    assert nll(steps=5, grid="quadratic")["bits_per_dim"] != nll(steps=5)["bits_per_dim"]


def test_one_image_has_null_for_an_error(folder):
    report = undye.evaluate(folder, pixels(1), device="cpu")
    assert report["metrics"]["nll"]["bits_per_dim"]["total"]["standard_error"] is None


def test_progress_names_what_it_is_about(folder):
    seen = []
    undye.evaluate(
        folder, pixels(2), ["nll", "ode"], draws=None, device="cpu", tolerance=1e-1,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )  # fmt: skip
    assert ("nll", 2 * T, 2 * T) in seen
    assert ("ode", 2, 2) in seen


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics": ["fit"]}, "unknown metric 'fit'"),
        ({"metrics": []}, "no metric"),
        ({"n": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, r"1\.\.20"),
        ({"variance": "learned_range"}, "has not learned"),
        ({"labels": "folders"}, "folder"),
        ({"draws": -2}, "at least 1"),
        ({"metrics": ["nll", "ode"], "repeats": 0}, "repeats"),
        ({"metrics": ["nll", "ode"], "sigma_min": 1e9}, "sigma_min"),
        ({"variance": "wide"}, "unknown variance"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_requests_that_make_no_sense(folder, options, says):
    with pytest.raises(undye.UserError, match=says):
        undye.evaluate(folder, pixels(3), device="cpu", **options)


def test_labels_for_a_model_without(folder, tmp_path):
    np.savez(tmp_path / "a.npz", images=pixels(6), labels=np.arange(6) % 3)
    with pytest.raises(undye.UserError, match="without labels"):
        undye.evaluate(folder, tmp_path / "a.npz", labels="auto", device="cpu")
