"""The metrics of samples as `undye.evaluate` measures them: recipes, flags, one pass, finished work kept on errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import undye
from undye.checkpoint.native import save
from undye.cli.eval_table import table
from undye.metrics import feature_files, measuring, quality, sample_set
from undye.metrics.findings import UnfinishedReport
from undye.metrics.recipe import model_hash
from undye.metrics.record import measurements
from undye.sampling import with_options

from .features import Projections
from .test_nll import model, pixels

ALL = ["fid", "kid", "is", "pr", "sfid", "neighbours"]
DRAWN = {"sampler": "ddim", "sample_steps": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "m", model(), about={"data": "noise", "ema_decay": 0.99})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quality, "RESAMPLES", 20)
    monkeypatch.setattr(sample_set, "chunk_size", lambda *_: 16)
    return tmp_path / "cache"


def measured(what, metrics=ALL, data=None, n=40, features=None, **options) -> dict:
    features = features or Projections()
    data = pixels(60, 5) if data is None else data
    return undye.evaluate(what, data, metrics, n=n, features=features, **{**DRAWN, **options})


def test_all_metrics_in_one_pass_with_their_recipe(folder, tmp_path):
    extractor = Projections()
    report = measured(folder, [*ALL, "nll"], features=extractor, neighbours=tmp_path / "near.png", draws=2)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["metrics"]) == {*ALL, "nll"}
    assert extractor.calls == 40 + 60, "each image went through once; the training set is the reference set"
    for metric in ALL[:-1]:
        entry = report["metrics"][metric]
        recipe = entry["recipe"]
        assert (entry["n"], entry["reference_n"]) == (40, 60)
        assert "below 10,000" in entry["flags"][0]
        assert recipe["versions"].keys() == {"undye", "torch"}
        assert recipe["features"]["sha256"] == extractor.hash
        reference = recipe["reference"]
        assert (reference["n"], reference["split"], len(reference["sha256"])) == (60, "test", 64)
        assert reference["resize"] == "none: images as they are"
        samples = recipe["samples"]
        assert (samples["weights"], samples["ema"]) == ("ema", {"ema_decay": 0.99})
        assert samples["sampler"] == {"name": "ddim", "clip": None, "eta": 0.0}
        assert (samples["steps"], samples["seed"], samples["n"]) == (2, 0, 40)
        assert (samples["device"], samples["dtype"]) == ("cpu", "float32")
        assert "rounded to the nearest" in samples["rounding"]
        assert len(samples["model"]) == len(samples["sha256"]) == len(samples["recipe_sha256"]) == 64
    fid = report["metrics"]["fid"]
    assert fid["interval"]["low"] <= fid["value"] <= fid["interval"]["high"]
    assert fid["expected_bias"] > 0
    assert f"{fid['expected_bias']:+.3g}" in fid["flags"][0]
    assert fid["infinity"]["value"] < fid["value"]
    assert Image.open(tmp_path / "near.png").size[0] > 100
    near = report["metrics"]["neighbours"]
    assert near["n"] == 40
    assert len(near["samples"][0]["pixels"]) == 5
    text = "\n".join(table(report))
    for part in ("FID", "n = inf", "KID", "precision", "coverage", "! FID: n = 40 is below", "2 steps", "bits/dim"):
        assert part in text


def test_the_numbers_are_those_of_the_parts(folder):
    report = measured(folder)["metrics"]
    samples = undye.sample(undye.load(folder), 40, sampler="ddim", steps=2)
    a, b = (Projections()(x) for x in (samples, pixels(60, 5)))
    from undye.metrics.fid import frechet_distance
    from undye.metrics.kid import kid
    from undye.metrics.moments import Moments

    def fid(x, y):
        return frechet_distance(Moments.of(x), Moments.of(y))

    assert report["fid"]["value"] == pytest.approx(fid(a.pooled, b.pooled), rel=1e-3)
    assert report["sfid"]["value"] == pytest.approx(fid(a.spatial, b.spatial), rel=1e-3)
    assert report["kid"]["value"] == pytest.approx(kid(a.pooled, b.pooled).value, rel=1e-3)


def test_a_second_run_draws_and_extracts_nothing(folder, monkeypatch):
    extractor = Projections()
    first = measured(folder, ["fid"], features=extractor)
    monkeypatch.setattr(sample_set, "sample", None)
    again = measured(folder, ["fid", "kid"], features=extractor)
    assert extractor.calls == 100
    assert again["samples"]["kept"] == 40
    assert again["metrics"]["fid"]["value"] == first["metrics"]["fid"]["value"]


def test_an_interrupted_evaluation_goes_on_to_the_same_numbers(folder, tmp_path, monkeypatch):
    whole = measured(folder, samples=tmp_path / "whole")
    real, drawn = sample_set.sample, []

    def killed(denoiser, n, **options):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(n)
        return real(denoiser, n, **options)

    monkeypatch.setattr(sample_set, "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(folder, samples=tmp_path / "killed")
    drawn.clear()
    resumed = measured(folder, samples=tmp_path / "killed")
    assert drawn == [8]
    assert resumed["samples"]["kept"] == 32
    for metric in ALL:
        a, b = ({k: v for k, v in r["metrics"][metric].items() if k != "recipe"} for r in (whole, resumed))
        assert a == b, metric


def test_a_damaged_sample_file_is_drawn_again_and_said(folder, tmp_path):
    first = measured(folder, ["kid"], samples=tmp_path / "s")
    path = next((tmp_path / "s").rglob("0000016-*.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    again = measured(folder, ["kid"], samples=tmp_path / "s")
    assert (again["samples"]["damaged"], again["samples"]["kept"]) == (1, 24)
    assert again["metrics"]["kid"]["value"] == first["metrics"]["kid"]["value"]
    assert "1 damaged files drawn again" in "\n".join(table(again))


def test_images_in_place_of_a_model(tmp_path):
    np.savez(tmp_path / "made.npz", images=pixels(50, 7))
    (tmp_path / "made").mkdir()
    for i, image in enumerate(pixels(50, 7)):
        Image.fromarray(image[..., 0]).save(tmp_path / "made" / f"{i:02d}.png")
    reports = [measured(what, n=None) for what in (tmp_path / "made.npz", tmp_path / "made", pixels(50, 7))]
    for report in reports:
        assert report["metrics"]["fid"]["value"] == reports[0]["metrics"]["fid"]["value"]
        assert report["metrics"]["fid"]["n"] == 50
    assert reports[0]["model"]["images"].endswith("made.npz")
    assert "images  " in table(reports[0])[0]
    assert measured(pixels(50, 7), ["fid"], n=30)["metrics"]["fid"]["n"] == 30
    same = measured(pixels(60, 5), ["fid", "pr"], n=None)["metrics"]
    assert same["fid"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["pr"]["precision"]["value"] == 1


def test_fid_per_class(tmp_path, monkeypatch):
    data = tmp_path / "a.npz"
    np.savez(data, images=pixels(60, 5), labels=np.arange(60) % 3)
    denoiser = model(num_classes=3, class_names=("0", "1", "2"))
    report = measured(denoiser, ["fid-per-class"], data, n=45)
    entry = report["metrics"]["fid-per-class"]
    assert [(c["name"], c["n"], c["reference_n"]) for c in entry["classes"]] == [(str(k), 15, 20) for k in range(3)]
    assert entry["mean"] == pytest.approx(np.mean([c["value"] for c in entry["classes"]]))
    assert report["samples"]["labels"] == "i mod 3"
    assert "FID of each class" in "\n".join(table(report))
    made = tmp_path / "b.npz"
    np.savez(made, images=pixels(60, 5)[::-1], labels=(np.arange(60) % 3)[::-1])
    values = [
        c["value"] for c in measured(made, ["fid-per-class"], data, n=None)["metrics"]["fid-per-class"]["classes"]
    ]
    assert values == pytest.approx([0, 0, 0], abs=1e-9), "the same images in another order"
    assert len(measurements(report)) == 1


@pytest.mark.parametrize(
    ("metrics", "options", "says"),
    [
        (["fid"], {"n": 6}, "at least 7 samples.*raise --n to 7.*kid"),
        (["sfid"], {"n": 4}, "at least 5 samples"),
        (["kid", "pr"], {"n": 5}, "pr needs at least 6 samples, there are 5: raise --n to 6"),
        (["kid"], {"n": 1}, "kid needs at least 2 samples"),
        (["is"], {"n": 9}, "is needs at least 10 samples"),
        (["pr"], {"data": pixels(5)}, "pr needs at least 6 reference images"),
        (["fid"], {"data": pixels(6)}, "at least 7 reference images"),
        (["fid-per-class"], {}, "trained with labels"),
        (["fid"], {"data": pixels(30, channels=3)}, "channel"),
        (["fid"], {"data": np.zeros((30, 9, 6, 1), np.uint8)}, "9x6"),
        (["fid"], {"data": "no/such/reference"}, "no/such/reference"),
        (["fid"], {"sampler": "eulr"}, "eulr"),
        (["memorization", "fid"], {}, "--held-out"),
        (["fid"], {"features": "no-such-features"}, "no-such-features"),
        (["fid"], {"features": "inception:/no/such/weights.pth"}, "weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_found_before_anything_is_drawn(folder, cache, metrics, options, says):
    with pytest.raises(undye.UserError, match=says):
        measured(folder, metrics, **options)
    assert not (cache / "samples").exists()


def test_features_that_do_not_fit(folder, cache):
    colour = Projections()
    colour.channels = 3
    with pytest.raises(undye.UserError, match="colour"):
        measured(folder, ["fid"], features=colour)
    with pytest.raises(undye.UserError, match="undye features"):
        undye.evaluate(folder, pixels(30), ["fid"], device="cpu")
    assert not (cache / "samples").exists()


@pytest.mark.parametrize(
    ("what", "metrics", "options", "says"),
    [
        (pixels(40), ["fid", "nll"], {}, "nll is what a model says"),
        (pixels(40, channels=3), ["fid"], {}, "8x6 with 3 channels"),
        (pixels(40)[:, :7], ["fid"], {}, "7x6"),
        (pixels(40), ["fid-per-class"], {}, "labels"),
        (pixels(40), ["fid"], {"weights": "raw"}, "holds images"),
        (pixels(6), ["fid"], {"n": None}, "at least 7"),
    ],
)
def test_images_that_cannot_be_measured(what, metrics, options, says):
    with pytest.raises(undye.UserError, match=says):
        measured(what, metrics, **options)


def test_a_metric_that_fails_leaves_the_others(folder, tmp_path, monkeypatch):
    real = measuring.measure_quality

    def no_neighbours(metric, *args):
        if metric == "pr":
            raise undye.UserError("there are no neighbours")
        return real(metric, *args)

    monkeypatch.setattr(measuring, "measure_quality", no_neighbours)
    out = tmp_path / "r.json"
    with pytest.raises(UnfinishedReport, match="measured kid, but not pr") as raised:
        measured(folder, ["pr", "kid"], n=6, out=out)
    report = raised.value.report
    assert report["metrics"].keys() == {"kid"}
    assert report["failed"].keys() == {"pr"}
    assert json.loads(out.read_text()) == report
    assert "! pr: not measured" in "\n".join(table(report))
    assert list((tmp_path / "cache" / "samples").rglob("0000000-*.npy")), "the samples are kept"
    with pytest.raises(undye.UserError) as alone:
        measured(folder, ["pr"], n=6)
    assert not isinstance(alone.value, UnfinishedReport)


def test_features_without_what_a_metric_needs(folder):
    class Poor(Projections):
        def features(self, images):
            full = super().features(images)
            return type(full)(full.pooled, None, None)

    poor = Poor()
    poor.spatial_dims = poor.num_classes = None
    with pytest.raises(UnfinishedReport, match=r"is: .*sfid: |sfid: .*is: "):
        measured(folder, ["is", "sfid", "kid"], features=poor)


def test_a_report_on_disk_grows_with_each_metric(folder, tmp_path, monkeypatch):
    out, real = tmp_path / "r.json", measuring.measure_quality

    def second_is_killed(metric, *args):
        if metric == "kid":
            raise KeyboardInterrupt
        return real(metric, *args)

    monkeypatch.setattr(measuring, "measure_quality", second_is_killed)
    with pytest.raises(KeyboardInterrupt):
        measured(folder, ["fid", "kid"], out=out)
    assert json.loads(out.read_text())["metrics"].keys() == {"fid"}


def test_a_module_of_ones_own_keeps_no_samples(tmp_path, cache):
    class Own(type(model().network)):
        pass

    denoiser = model()
    denoiser.network.__class__ = Own
    report = measured(denoiser, ["kid"])
    assert report["samples"]["folder"] is None
    assert report["samples"]["model"] is None
    assert not (cache / "samples").exists()
    with pytest.raises(undye.UserError, match="leave samples"):
        measured(denoiser, ["kid"], samples=tmp_path / "s")


def test_features_that_cannot_vouch_for_themselves_are_not_kept(folder, cache):
    loose = Projections()
    loose.cacheable = False
    measured(folder, ["fid"], features=loose)
    measured(folder, ["fid"], features=loose)
    assert loose.calls == 200
    assert not list(cache.rglob("pooled.npy"))


def test_the_card_has_a_row_for_each_number(folder):
    rows = {row.metric: row for row in measurements(measured(folder))}
    assert set(rows) == {
        "FID", "FID-infinity", "sFID", "sFID-infinity", "KID", "Inception Score", "precision", "recall", "density",
        "coverage",
    }  # fmt: skip
    assert rows["FID"].data == "40 samples, 60 images of array"
    assert rows["FID"].how.startswith("ddim (eta 0), 2 steps, seed 0, features projections ")
    assert rows["FID"].standard_error > 0


def test_memory_is_flat(tmp_path):
    """Features are read and written in pieces: what a source is asked for at a time does not grow with it."""
    seen = []

    class Long(type(undye.load_images(pixels(4)))):
        def __len__(self):
            return 3000

        def images(self, indices):
            seen.append(len(indices))
            return np.zeros((len(indices), 8, 6, 1), np.uint8)

    features = feature_files.features_of(Long("long", pixels(4)), Projections(), tmp_path)
    assert isinstance(features.pooled, np.memmap)
    assert max(seen) <= 1024


def test_inception_that_cannot_be_downloaded(folder, cache, tmp_path, monkeypatch):
    import urllib.error

    import torch

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(undye.UserError, match=r"cannot be downloaded .no network.*--features inception:"):
        measured(folder, ["fid"], features="inception")
    assert not (cache / "samples").exists(), "found before anything is drawn"


def test_the_samples_come_again_from_the_report_alone(folder):
    """With the default sampler, whose options and times nobody gave."""
    report = undye.evaluate(folder, pixels(60, 5), ["kid"], n=20, features=Projections(), device="cpu")
    entry, checkpoint = report["metrics"]["kid"], report["model"]["checkpoint"]
    told = json.loads(json.dumps(entry["recipe"]["samples"]))
    assert told["guidance"].keys() <= {f"guidance{x}" for x in ("", "_interval", "_rescale")} | {
        "classifier", "threshold"
    }  # fmt: skip
    assert told["dtype"] == "float32"
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in told["sampler"].items() if k != "name"}
    sampler = with_options(told["sampler"]["name"], **options)
    denoiser = undye.load(checkpoint, weights=told["weights"])
    images = undye.sample(denoiser, told["n"], sampler=sampler, times=told["times"], seed=told["seed"])
    again = undye.evaluate(images, pixels(60, 5), ["kid"], features=Projections(), seed=entry["seed"])
    assert again["metrics"]["kid"]["recipe"]["samples"]["sha256"] == told["sha256"]
    assert again["metrics"]["kid"]["value"] == entry["value"]
    assert again["metrics"]["kid"]["draw"] == entry["draw"] == 0
    assert again["metrics"]["kid"]["interval"] == entry["interval"]


def test_likelihoods_and_memorization_carry_their_recipe(folder):
    report = measured(folder, ["nll", "ode", "memorization"], held_out=pixels(50, 6), draws=1, n=10)
    for metric in ("nll", "ode"):
        recipe = report["metrics"][metric]["recipe"]
        assert recipe["model"]["weights"] == "ema"
        assert recipe["model"]["ema"] == {"ema_decay": 0.99}
        assert recipe["model"]["sha256"] == model_hash(undye.load(folder))
        data = recipe["data"]
        assert (data["n"], data["of"], data["split"], data["chosen_by_seed"]) == (10, 60, "test", 0)
        assert data["resize"] == "none: images as they are"
        assert len(data["sha256"]) == 64
    recipe = report["metrics"]["memorization"]["recipe"]
    hashes = {recipe[k]["sha256"] for k in ("samples", "training", "held_out")}
    assert {len(h) for h in hashes} == {64}
    assert len(hashes) == 3


def test_images_that_are_left_out_or_missing_are_said(tmp_path):
    for i, image in enumerate(pixels(40, 1)):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(b"\x89PNG junk")
    report = measured(tmp_path, ["kid"], n=100)
    told = report["metrics"]["kid"]["recipe"]["samples"]
    assert (told["n"], told["asked"], told["left_out"]) == (39, 100, 1)
    text = "\n".join(table(report))
    assert "39 images, all there are of the 100 asked for, 1 that cannot be read left out" in text
    assert measured(pixels(60), ["kid"], tmp_path, n=30)["reference"]["left_out"] == 1


@pytest.mark.filterwarnings("error")
def test_two_images_have_a_number_without_an_interval():
    entry = measured(pixels(2), ["kid"], n=None)["metrics"]["kid"]
    assert np.isfinite(entry["value"])
    assert entry["interval"] is None


def test_the_table_of_a_model_that_says_how_many_images_it_was_trained_on(tmp_path):
    trained = save(tmp_path / "m", model(), about={"images": 60_000})
    assert table(measured(trained, ["kid"]))[0] == f"model   {trained}"


def test_what_a_person_chose_is_in_the_short_recipe(tmp_path):
    folder = save(tmp_path / "classes", model(num_classes=3))
    report = measured(folder, ["kid"], n=10, guidance=1.5)
    said = "ddim (eta 0), 2 steps, seed 0, guidance 1.5"
    assert said in "\n".join(table(report))
    assert measurements(report)[0].how.startswith(said)


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(undye.UserError, match="neither images nor a model"):
        measured(tmp_path, ["kid"])
    with pytest.raises(undye.UserError, match="neither images nor a model"):
        undye.compare([pixels(60), tmp_path], pixels(60), features=Projections())
