"""`undye ema`, and `--weights` of the commands that read a model."""

import json
from pathlib import Path

import numpy as np
import pytest

import undye
from undye.checkpoint.native import read_about
from undye.cli.main import main

TINY = [
    *("--threads", "1", "--device", "cpu", "--preview.count", "0", "--training.batch-size", "4"),
    *("--model.network.channels", "8", "--model.network.blocks", "1", "--model.network.head-channels", "0"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, 40 steps with a snapshot of two averages every 2, and its images `a.npz`."""
    folder = tmp_path_factory.mktemp("ema")
    np.savez(folder / "a.npz", images=np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8))
    args = ["train", "cpu", "--data", str(folder / "a.npz"), "--out", str(folder / "run"), *TINY]
    averages = ["--training.ema-stds", "0.05", "0.10", "--training.ema-every", "2"]
    assert main([*args, "--training.steps", "40", *averages]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in args]) == 0
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("undye: error: ")
    assert error.count("\n") == 1
    return error


def test_it_lists_what_there_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "ema", folder / "run").splitlines()
    assert lines[0] == "averages   std 0.05, 0.1"
    assert lines[1].startswith("snapshots  20: steps 2 to 40, 2 apart, ")
    assert lines[2].startswith("can make   std 0.0")
    assert lines[2].endswith("at step 40")
    assert (
        said(capsys, "ema", folder / "run", "--step", "20").splitlines()[1].startswith("snapshots  10: steps 2 to 20")
    )


def test_it_makes_a_checkpoint_for_all_commands(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert said(capsys, "ema", folder / "run", "--std", "0.15", "--step", "30", "--out", made) == f"{made}\n"
    beside = folder / "run-ema-0.15-30"
    assert said(capsys, "ema", folder / "run", "--std", "0.15", "--step", "30") == f"{beside}\n"
    assert read_about(beside)["ema_std"] == 0.15
    about = read_about(made)
    assert (about["ema_std"], about["step"], about["from"]) == (0.15, 30, "run")
    assert "ema_decay" not in about
    assert "0.15" in said(capsys, "info", made)
    direct = undye.posthoc_ema(folder / "run", 0.15, 30)
    loaded = undye.load(made)
    for a, b in zip(loaded.parameters(), direct.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    out = tmp_path / "s.npz"
    said(capsys, "sample", made, "--n", "2", "--steps", "2", "--out", out, "--device", "cpu")
    assert np.load(out)["images"].shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--out", "x"], "--std"),
        (["--std", "0.35", "--out", "x"], "choose a --std of 0.0"),
        (["--std", "0.05", "--step", "41", "--out", "x"], "end at step 40"),
        (["--std", "0.05", "--step", "17", "--out", "x"], "nearest is that of step 16"),
        (["--std", "long", "--out", "x"], "--std"),
    ],
)
def test_wrong_calls(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str],
    says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, "ema", folder / "run", *args)
    assert not any(tmp_path.iterdir())


def test_wrong_places(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no run at" in fails(capsys, "ema", tmp_path / "nowhere")
    assert "--training.ema-stds" in fails(capsys, "ema", folder / "run" / "checkpoints" / "40")
    assert "exists already" in fails(capsys, "ema", folder / "run", "--std", "0.05", "--out", folder)


def test_a_run_rejects_lengths_that_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["train", "cpu", "--data", folder / "a.npz", "--out", tmp_path / "run", *TINY]
    assert "0.28" in fails(capsys, *args, "--training.ema-stds", "0.5")
    assert "at least 1" in fails(capsys, *args, "--training.ema-stds", "0.05", "--training.ema-every", "0")


def test_weights_of_sample(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images = {}
    for weights in ("ema", "raw"):
        out = tmp_path / f"{weights}.npz"
        said(capsys, "sample", folder / "run", "--n", 2, "--steps", 2, "--weights", weights, "--out", out, *TINY[:4])
        images[weights] = np.load(out)["images"]
    expected = undye.sample(undye.load(folder / "run", weights="raw"), n=2, steps=2)
    np.testing.assert_array_equal(images["raw"], expected)
    assert not np.array_equal(images["raw"], images["ema"])


def test_weights_of_eval(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["eval", folder / "run", "--data", folder / "a.npz", "--n", 4, "--draws", 1, *TINY[:4]]
    totals = {}
    for weights in ("ema", "raw"):
        out = said(capsys, *args, "--weights", weights, "--out", tmp_path / f"{weights}.json")
        assert ("raw weights" in out) == (weights == "raw")
        report = json.loads((tmp_path / f"{weights}.json").read_text())
        assert report["model"]["weights"] == weights
        totals[weights] = report["metrics"]["nll"]["bits_per_dim"]["total"]["mean"]
    assert totals["ema"] != totals["raw"]
    assert "--card" in fails(capsys, *args, "--weights", "raw", "--card")


def test_weights_of_info(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert json.loads(said(capsys, "info", folder / "run", "--json"))["weights"] == "ema"
    assert json.loads(said(capsys, "info", folder / "run", "--json", "--weights", "raw"))["weights"] == "raw"
    said(capsys, "ema", folder / "run", "--std", "0.05", "--out", tmp_path / "made")
    assert "no raw weights" in fails(capsys, "info", tmp_path / "made", "--weights", "raw")
    assert "no raw weights" in fails(
        capsys, "sample", tmp_path / "made", "--weights", "raw", "--out", tmp_path / "s.png"
    )


def test_other_projects_models_have_one_set_of_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    torch.save({}, tmp_path / "model.pt")
    for command in (["info"], ["sample", "--out", tmp_path / "s.png"]):
        assert "undye's own checkpoints" in fails(capsys, *command, tmp_path / "model.pt", "--weights", "raw")
