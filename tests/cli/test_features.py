"""`undye features`."""

from pathlib import Path

import numpy as np
import pytest

from undye.cli.main import main
from undye.metrics.extractor import load_extractor


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = rng.integers(0, 60, (120, 12, 12, 1), dtype=np.uint8)
    images[labels == 1, :, :6] += 150
    path = tmp_path_factory.mktemp("features") / "a.npz"
    np.savez(path, images=images, labels=labels)
    return path


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    assert main(["features", *map(str, args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("undye: error: ")
    assert error.count("\n") == 1
    return error


def test_it_makes_a_file_and_says_how_good_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.safetensors"
    assert main(["features", "--data", str(data), "--out", str(out), "--epochs", "3", "--device", "cpu"]) == 0
    extractor = load_extractor(out, "cpu")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "test accuracy 100.00% on 12 images held out by the seed, after 3 epochs"
    assert said[1] == f"{out} (sha256 {extractor.hash[:16]})"
    assert extractor.recipe()["trained"]["data"] == str(data)
    assert (extractor.image_size, extractor.channels, extractor.num_classes) == ((12, 12), 1, 2)


def test_an_image_size_is_that_of_the_features(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    args = ["--epochs", "1", "--image-size", "10x8", "--channels", "3", "--device", "cpu", "--threads", "1"]
    assert main(["features", "--data", str(data), "--out", str(out), *args]) == 0
    extractor = load_extractor(out, "cpu")
    assert (extractor.image_size, extractor.channels) == ((10, 8), 3)


def test_mistakes_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.safetensors"
    assert "no data" in fails(capsys, "--out", out)
    assert "no --out" in fails(capsys, "--data", data)
    assert "should end in .safetensors" in fails(capsys, "--data", data, "--out", tmp_path / "f")
    assert "no data set, folder or file" in fails(capsys, "--data", tmp_path / "none", "--out", out)
    np.savez(tmp_path / "b.npz", images=np.zeros((9, 12, 12, 1), np.uint8))
    assert "--labels folders" in fails(capsys, "--data", tmp_path / "b.npz", "--out", out)
    assert "epochs" in fails(capsys, "--data", data, "--out", out, "--epochs", 0)
    out.touch()
    assert "exists already" in fails(capsys, "--data", data, "--out", out)


def test_a_log_gets_plain_lines(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undye.cli.progress.LINE_EVERY", 0.0)
    out = tmp_path / "f.safetensors"
    assert main(["features", "--data", str(data), "--out", str(out), "--epochs", "1", "--device", "cpu"]) == 0
    assert "features: 16 of 96 images, " in capsys.readouterr().err.splitlines()[0]


def test_ctrl_c_leaves_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_self: object, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("undye.cli.progress.Progress.__call__", stop)
    assert main(["features", "--data", str(data), "--out", str(tmp_path / "f.safetensors"), "--device", "cpu"]) == 130
    assert list(tmp_path.iterdir()) == []
