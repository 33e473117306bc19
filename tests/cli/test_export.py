"""`undye export --to onnx|torch` and `undye info` on its files, as a user meets them."""

import json
from pathlib import Path

import pytest

from undye.checkpoint import program_info
from undye.checkpoint.native import save
from undye.cli.main import main
from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser

CONFIG = ModelConfig(
    network=CompactConfig(channels=(8,), blocks=(0,), head_channels=0), image_size=(6, 8), channels=1, num_classes=2
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("export") / "own", Denoiser.from_config(CONFIG))


@pytest.mark.parametrize(("to", "name", "form"), [("onnx", "m.onnx", "ONNX"), ("torch", "m.pt2", "torch.export")])
def test_export_and_info(own: Path, to: str, name: str, form: str, tmp_path: Path, capsys, monkeypatch) -> None:
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes of a trace are not there to be looked at
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    out = str(tmp_path / name)
    assert main(["export", str(own), "--to", to, "--out", out]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert captured.err == ""
    assert main(["info", out]) == 0
    text = capsys.readouterr().out
    rows = {line[:14].strip(): line[14:].strip() for line in text.splitlines()}
    assert rows["program"] == out
    assert rows["kind"].startswith(f"{form}, written by undye ")
    assert rows["inputs"] == "x_t: float32 batch x 1 x 6 x 8; t: float32 batch; label: int64 batch"
    assert rows["outputs"] == "x_0: float32 batch x 1 x 6 x 8; eps: float32 batch x 1 x 6 x 8"
    assert rows["classes"] == "2"
    assert main(["info", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["image_size"] == [6, 8]
    assert facts["kind"] == to
    assert facts["inputs"][1] == {"name": "t", "dtype": "float32", "shape": ["batch"]}
    assert facts["parameters"] == sum(p.numel() for p in Denoiser.from_config(CONFIG).parameters())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--to", "onnx"], "no --out"),
        (["--to", "onnx", "--out", "m.pt2"], "m.pt2 should end in .onnx"),
        (["--to", "torch", "--out", "m.onnx"], "m.onnx should end in .pt2"),
        (["--to", "torch", "--out", "folder"], "folder should end in .pt2"),
        (["--to", "torch", "--out", "there.pt2"], "there.pt2 exists already"),
        (["--to", "tensorrt", "--out", "m"], "tensorrt"),
    ],
)
def test_wrong_calls(own: Path, args: list[str], says: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").write_text("mine")
    assert main(["export", str(own), *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("undye: error: ")
    assert error.count("\n") == 1
    assert says in error
    assert [p.name for p in tmp_path.iterdir()] == ["there.pt2"]


def test_onnx_without_its_packages(own: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(program_info.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(own), "--to", "onnx", "--out", str(tmp_path / "m.onnx")]) == 2
    assert "needs onnx and onnxscript and onnxruntime: pip install 'undye[onnx]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(1000), b"PK\x05\x06" + bytes(18)])
def test_info_on_files_that_are_none(name: str, content: bytes, tmp_path: Path, capsys) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["info", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_names_the_kinds(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = capsys.readouterr().out
    for word in ("diffusers", "onnx", "torch", "NAME.pt2"):
        assert word in text
