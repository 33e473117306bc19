"""`undye.compare`: the same seeds, one table, and verdicts that are right on models whose difference is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import undye
from undye.checkpoint.native import save
from undye.cli.compare_table import compare_table
from undye.metrics import quality
from undye.metrics.bootstrap import resample_weights
from undye.metrics.findings import UnfinishedReport
from undye.metrics.intervals import Replicates, difference
from undye.world import World

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
        ([pixels(60), pixels(60)], {"metrics": ["kid", "nll"]}, r"nll is what a model says .* array \(1\) holds"),
        ([model(), "no/such/model"], {"metrics": ["nll"]}, "no model at no/such/model"),
        (
            [model(), pixels(60)],
            {"metrics": ["rate-distortion"]},
            r"rate-distortion is what .* array holds .*neighbours",
        ),
        ([model(), model()], {"metrics": ["fid-per-class"]}, "trained with labels"),
        ([pixels(60), pixels(60)], {"metrics": ["fid-per-class"]}, "with classes"),
        ([pixels(60), pixels(60)], {"metrics": ["memorization"]}, "--held-out"),
        ([model(), model()], {"metrics": ["nll"], "draws": 0}, "at least 1"),
        ([model(), model()], {"metrics": ["ode"], "tolerance": 0.0}, "tolerance above 0"),
        ([pixels(60), "no/such/model"], {}, "no model at no/such/model"),
        ([pixels(60), pixels(60)], {"features": "no-such"}, "no-such"),
        ([pixels(60), pixels(60)], {"metrics": ["fit"]}, "unknown metric 'fit'"),
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
    with pytest.raises(UnfinishedReport) as last:
        compared([pixels(60, 1), wide], ["kid"], out=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == last.value.report, "the file knows of the last one too"


def test_collapsed_sets_do_not_differ_by_rounding():
    """The same image over and over, now 200 times, now 170: what a sum of so many rounds to is no difference."""
    one = pixels(1, 3)
    report = compared([np.repeat(one, n, axis=0) for n in (200, 170, 130, 90)], ["fid", "kid", "pr"])
    for number, found in report["numbers"].items():
        for side in found["models"]:
            for told in (side["to_best"], side["to_first"]):
                assert told is None or not told["real"], (number, told)
    assert not difference(Replicates(3.0, np.full(50, 3.0)), Replicates(3.0 + 1e-8, np.full(50, 3.0 + 1e-8))).real
    assert difference(Replicates(3.0, np.full(50, 3.0)), Replicates(3.0 + 1e-5, np.full(50, 3.0 + 1e-5))).real


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


def spoiled(by: float = 0.3) -> undye.Denoiser:
    """The model of the tests, with noise on its weights."""
    denoiser = model()
    torch.manual_seed(7)
    for p in denoiser.parameters():
        p.data += by * torch.randn_like(p)
    return denoiser


def likelihoods(models, metrics=("nll",), **options) -> dict:
    return undye.compare(models, pixels(40, 5), metrics, **{"n": 24, "draws": 3, "device": "cpu", **options})


@pytest.mark.parametrize("options", [{"metrics": "nll"}, {"metrics": "nll", "draws": None}, {"metrics": "ode", "n": 8}])
def test_a_model_is_as_likely_as_itself_and_likelier_than_a_spoiled_copy(tmp_path, options):
    number = options["metrics"]
    report = likelihoods([model(), model(), spoiled()], **options, tolerance=1e-2, out=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert list(report["numbers"]) == [number]
    found = report["numbers"][number]
    assert found["lower_is_better"]
    assert found["best"] == "model (1)"
    again, bad = (row(report, number, f"model ({k})")["to_best"] for k in (2, 3))
    assert (again["value"], again["low"], again["high"], again["real"]) == (0, 0, 0, False)
    assert again["p_value"] == 1
    assert bad["real"]
    assert bad["low"] > 0
    assert again["paired"]
    assert bad["paired"]
    text = "\n".join(compare_table(report))
    assert f"{number.upper()}: bits/dim of {options.get('n', 24)} of 40 images of array" in text
    assert f"{number.upper()}: model (3) is worse than model (1) (+" in text
    assert "model (2) may be as good as model (1)" in text


def test_a_likelihood_is_what_evaluate_says_and_its_difference_that_of_the_images():
    report = likelihoods([model(), spoiled()], seed=3)
    alone = undye.evaluate(spoiled(), pixels(40, 5), "nll", n=24, draws=3, seed=3, device="cpu")
    ours, theirs = report["models"][1]["metrics"]["nll"], alone["metrics"]["nll"]
    assert {k: v for k, v in ours.items() if k != "recipe"} == {k: v for k, v in theirs.items() if k != "recipe"}
    assert ours["recipe"] == theirs["recipe"]
    assert "samples" not in report["models"][1]
    value = row(report, "nll", "model (2)")["value"]
    assert value == theirs["bits_per_dim"]["total"]["mean"]

    chosen = np.sort(undye.keyed.permutation(40, 3, undye.keyed.Stream.EVAL_IMAGES)[:24])
    a, b = (undye.bits_per_dim(m, pixels(40, 5)[chosen], draws=3, seed=3).total for m in (model(), spoiled()))
    found = row(report, "nll", "model (2)")["to_first"]
    assert found["value"] == pytest.approx((b - a).mean(), rel=1e-9)
    strays = resample_weights(24, 100, 3) @ (b - a) / 24
    assert found["standard_error"] == pytest.approx(strays.std(ddof=1), rel=1e-9)
    apart = difference(*(Replicates(x.mean(), resample_weights(24, 100, 3, k) @ x / 24) for k, x in enumerate((b, a))))
    assert found["standard_error"] < 0.9 * apart.standard_error, "the images that both find hard cancel"


def test_likelihoods_beside_metrics_of_samples(tmp_path):
    report = undye.compare(
        [save(tmp_path / "a", model()), save(tmp_path / "b", spoiled())], pixels(60, 5), ["kid", "ode", "nll"],
        n=20, draws=2, tolerance=1e-2, features=Projections(), sampler="ddim", sample_steps=2, device="cpu",
    )  # fmt: skip
    assert list(report["numbers"]) == ["nll", "ode", "kid"]
    assert all(found["models"][1]["to_first"]["paired"] for found in report["numbers"].values())
    assert "NLL, ODE: bits/dim of 20 of 60 images of array" in "\n".join(compare_table(report))


def test_a_single_image_says_nothing_of_a_difference():
    report = likelihoods([model(), spoiled()], n=1)
    worse = next(r for r in report["numbers"]["nll"]["models"] if r["name"] != report["numbers"]["nll"]["best"])
    assert worse["to_best"] is None
    assert "cannot be told from" in "\n".join(compare_table(report))


def test_a_model_that_has_diverged_leaves_the_others():
    broken = model()
    next(broken.parameters()).data.fill_(torch.nan)
    with pytest.raises(UnfinishedReport, match=r"nll of model \(2\): .*diverged") as raised:
        likelihoods([model(), broken, spoiled()])
    report = raised.value.report
    assert [r["name"] for r in report["numbers"]["nll"]["models"]] == ["model (1)", "model (3)"]
    assert "! nll of model (2): not measured" in "\n".join(compare_table(report))


def test_several_processes_share_the_images():
    """What the second one has is collected by the first, which alone reports."""
    sent = []

    class Second(World):
        def __init__(self):
            self.rank, self.size, self.device = 1, 2, torch.device("cpu")

        def collect(self, value):
            sent.append(value)

    class First(World):
        def __init__(self):
            self.rank, self.size, self.device = 0, 2, torch.device("cpu")

        def collect(self, value):
            return [value, sent.pop(0)]

    models = [model(), spoiled()]
    assert likelihoods(models, n=23, world=Second()) == {}
    assert [len(part.total) for part in sent] == [12, 12], "the other 11 images of each model are the first process's"
    both, alone = likelihoods(models, n=23, world=First()), likelihoods(models, n=23)
    for k in (1, 2):
        ours, theirs = (row(r, "nll", f"model ({k})") for r in (both, alone))
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-5)
    ours, theirs = (row(r, "nll", "model (2)")["to_first"] for r in (both, alone))
    assert ours["standard_error"] == pytest.approx(theirs["standard_error"], rel=1e-3)
