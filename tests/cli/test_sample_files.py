"""What `undye sample` writes: pictures that say how they were made, made again, gone on with, captioned."""

import json
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from undye.checkpoint.native import save
from undye.cli.main import main
from undye.config import CompactConfig, ModelConfig
from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.networks.compact import CompactUNet
from undye.provenance import KEY, read_provenance


def denoiser(seed: int, **options) -> Denoiser:
    network = CompactConfig(channels=(8, 8), blocks=(1, 1), head_channels=0)
    config = ModelConfig(network=network, image_size=(8, 6), channels=1, num_classes=3, **options)
    torch.manual_seed(seed)
    made = Denoiser.from_config(config)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # the last layer begins as zeros
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model", denoiser(3, class_names=("a", "b", "c")))


@pytest.fixture
def no_shape_checks():
    """The checks of shapes that tests switch on would look into the tensors of a trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    err = capsys.readouterr().err
    assert err.startswith("undye: error: ")
    assert len(err.splitlines()) == 1
    return err


def test_a_folder_holds_the_classes_that_it_was_begun_with(model, tmp_path, capsys):
    folder = str(tmp_path / "all")
    args = ["sample", str(model), "--steps", "2", "--out", folder, "--resume"]
    assert main([*args, "--n", "4", "--label", "all"]) == 0
    (tmp_path / "all" / "000000.png").unlink()  # the first that is there is another class's
    for label in (["--label", "1"], [], ["--label", "b"]):
        assert "other settings" in fails(capsys, *args, "--n", "6", *label)
    assert main([*args, "--n", "6", "--label", "all"]) == 0
    found = [read_provenance(f)["label"] for f in sorted((tmp_path / "all").iterdir())]
    assert found == [[0], [1], [2], [0], [1], [2]]
    one = str(tmp_path / "one")
    assert main([*args[:-2], one, "--n", "1", "--label", "b"]) == 0
    assert "other settings" in fails(capsys, *args[:-2], one, "--resume", "--n", "3", "--label", "c")
    assert main([*args[:-2], one, "--resume", "--n", "3", "--label", "1"]) == 0


@pytest.mark.parametrize("out", ["x.png", "x.npz", "folder/", "film.gif"])
def test_a_place_that_cannot_be_written_to_is_found_first(model, capsys, monkeypatch, out):
    monkeypatch.setattr(CompactUNet, "forward", lambda *_: pytest.fail("the network was asked"))
    flag = "--film" if out == "film.gif" else "--out"
    said = fails(capsys, "sample", str(model), "--label", "1", flag, f"/proc/{out}")
    assert "/proc cannot be written to" in said


def test_more_samples_than_the_memory_holds(model, tmp_path, capsys):
    for label in ("all", "1"):
        for more in (["--out", "x.png"], ["--film", "x.gif"], ["--out", "x.npz"]):
            args = ["sample", str(model), "--n", str(10**12), "--label", label, "--steps", "1"]
            assert "GB of memory" in fails(capsys, *args, more[0], str(tmp_path / more[1]))
    assert "GB of memory" in fails(capsys, *args, "--out", str(tmp_path / "folder"))


@pytest.mark.parametrize("words", ["before the pixels", "after the pixels"])
def test_a_picture_too_large_to_be_decoded_says_how_it_was_made(tmp_path, words):
    """Text behind the pixels is not looked for: that would be to decode them."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps({"command": "sample"}))
    path = tmp_path / "large.png"
    Image.new("1", (14_000, 13_000)).save(path, pnginfo=info)
    if words == "after the pixels":
        whole = path.read_bytes()
        at = whole.index(b"iTXt") - 4
        length = int.from_bytes(whole[at : at + 4], "big") + 12
        end = whole.index(b"IEND") - 4
        path.write_bytes(whole[:at] + whole[at + length : end] + whole[at : at + length] + whole[end:])
        with pytest.raises(UserError, match="does not say how it was made"):
            read_provenance(path)
    else:
        assert read_provenance(path) == {"command": "sample"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--sampler ddmi", "--sampler cannot be 'ddmi': did you mean ddim? choose from ancestral, ddim, dpm++2m, "),
        ("--grid karas", "--grid cannot be 'karas': did you mean karras? choose from cosine, karras, "),
        ("--dtype int3", "--dtype cannot be 'int3': choose from float32, bfloat16, float16 "),
        ("--guidance-interval 3", "--guidance-interval takes 2 values, got 1"),
    ],
)
def test_words_that_a_flag_does_not_know(capsys, flags, says):
    said = fails(capsys, "sample", "m", "--out", "x.png", *flags.split())
    assert says in said
    assert "None" not in said
    assert "[bold]" not in said


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


COMMON = ("--steps", "3", "--label", "all", "--guidance", "1.5", "--guidance-interval", "0.1", "20")


def test_a_picture_of_a_folder_is_made_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["sample", str(model), "--n", "5", "--seed", "4", *COMMON, "--out", str(tmp_path / "all")]) == 0
    picture = tmp_path / "all" / "000004.png"
    assert main(["sample", "--like", str(picture), "--out", str(tmp_path / "again")]) == 0
    again = tmp_path / "again" / "000000.png"
    assert abs(pixels(again) - pixels(picture)).max() <= 1
    first, second = read_provenance(picture), read_provenance(again)
    assert first == second
    assert (first["first_index"], first["n"], first["label"]) == (4, 1, [1])


def test_a_grid_is_made_again(model: Path, tmp_path: Path) -> None:
    args = ["--n", "5", *COMMON, "--sampler", "ddim", "--eta", "0.5", "--grid", "quadratic"]
    assert main(["sample", str(model), *args, "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["sample", "--like", str(tmp_path / "grid.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert np.array_equal(pixels(tmp_path / "grid.png"), pixels(tmp_path / "again.png"))
    assert main(["sample", "--like", str(tmp_path / "grid.png"), "--out", str(tmp_path / "a.npz")]) == 0
    arrays = np.load(tmp_path / "a.npz")
    assert arrays.files[0] == "images"
    assert arrays["labels"].tolist() == [0, 1, 2, 0, 1]


def test_a_new_grid_of_the_model_does_not_change_old_pictures(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    assert main(["sample", str(own), "--n", "2", "--steps", "4", "--label", "a", "--out", str(tmp_path / "a.png")]) == 0
    grid = OptimisedGrid(
        times=(1000.0, 900.0, 500.0, 100.0, 0.0), sampler="unipc", orders=(1, 2, 2, 1), distance=0.1, best_known=0.2,
        best_known_name="x",
    )  # fmt: skip
    from undye.checkpoint.grids import GRIDS, grids_text

    (own / GRIDS).write_text(grids_text({4: grid}))
    assert main(["sample", "--like", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]) == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_pictures_of_another_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "model"
    shutil.copytree(model, own)
    assert main(["sample", "model", "--n", "1", *COMMON, "--out", "a.png"]) == 0
    shutil.rmtree(own)
    assert "no model at model" in fails(capsys, "sample", "--like", "a.png", "--out", "b.png")
    save(own, denoiser(5))
    assert "not the one that made a.png" in fails(capsys, "sample", "--like", "a.png", "--out", "b.png")
    assert main(["sample", "model", "--like", "a.png", "--out", "b.png"]) == 0
    assert "note: another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not say how it was made"),
        ("[1]", "does not say how it was made"),
        ("{", "does not say how it was made"),
        ("[" * 100_000, "does not say how it was made"),
        ("{}", "another version of undye"),
        (
            '{"model": 5, "sha256": null, "weights": "ema", "runtime": "pytorch", "calibration": "", "set": []}',
            "version",
        ),
    ],
)
def test_strange_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, says: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text is not None:
        info.add_itxt(KEY, text)
    Image.new("L", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
    assert says in fails(capsys, "sample", "--like", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png"))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert "x.png" in fails(capsys, "sample", "--like", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png"))


def test_a_wrong_setting_in_a_picture(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL.PngImagePlugin import PngInfo

    assert main(["sample", str(model), "--n", "1", *COMMON, "--out", str(tmp_path / "a.png")]) == 0
    found = read_provenance(tmp_path / "a.png")
    for key, value, says in [
        ("sampler", "eular", "unknown sampler"), ("times", [1000, 2000, 0], "fall strictly"), ("seed", "x", "version"),
        ("options", {"eta": 9}, "no option"), ("dtype", "int4", "unknown dtype"), ("label", [7], "0..2"),
        ("n", 0, "version"), ("runtime", "magic", "unknown runtime"),
    ]:  # fmt: skip
        info = PngInfo()
        info.add_itxt(KEY, json.dumps({**found, key: value}))
        Image.new("L", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
        said = fails(capsys, "sample", "--like", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png"))
        assert says in said, (key, said)


def test_a_folder_is_gone_on_with(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    args = ["sample", str(model), *COMMON]
    assert main([*args, "--n", "7", "--out", str(whole)]) == 0
    assert main([*args, "--n", "3", "--out", str(part)]) == 0
    (part / "000001.png").unlink()
    untouched = (part / "000000.png").stat().st_mtime_ns
    assert "--resume" in fails(capsys, *args, "--n", "7", "--out", str(part))
    assert main([*args, "--n", "7", "--out", str(part), "--resume"]) == 0
    assert (part / "000000.png").stat().st_mtime_ns == untouched
    assert sorted(f.name for f in part.iterdir()) == sorted(f.name for f in whole.iterdir())
    for file in whole.iterdir():
        assert abs(pixels(file) - pixels(part / file.name)).max() <= 1
        assert read_provenance(file) == read_provenance(part / file.name)
    assert main([*args, "--n", "7", "--out", str(part), "--resume"]) == 0  # nothing is left to do
    other = fails(capsys, *args, "--n", "9", "--seed", "1", "--out", str(part), "--resume")
    assert "other settings" in other
    assert main([*args, "--n", "2", "--out", str(tmp_path / "new"), "--resume"]) == 0  # nothing there yet


def test_captions(model: Path, tmp_path: Path) -> None:
    plain, words = tmp_path / "plain.png", tmp_path / "words.png"
    for path, more in ((plain, []), (words, ["--captions"])):
        assert main(["sample", str(model), "--n", "4", *COMMON, "--out", str(path), *more]) == 0
    assert Image.open(words).size[1] > 0
    assert pixels(words).shape != pixels(plain).shape
    assert read_provenance(words) == read_provenance(plain)


@pytest.mark.parametrize("ending", ["apng", "mp4", "png"])
def test_films(model: Path, tmp_path: Path, ending: str) -> None:
    film = tmp_path / f"film.{ending}"
    assert main(["sample", str(model), "--n", "4", *COMMON, "--frames", "3", "--film", str(film)]) == 0
    if ending == "mp4":
        import av

        with av.open(str(film)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) > 100
        assert abs(frames[0].astype(int) - frames[-1]).mean() > 5
    else:
        assert getattr(Image.open(film), "n_frames", 1) == (4 if ending == "apng" else 1)
        assert read_provenance(film)["n"] == 4


def test_bfloat16_is_nearly_the_same(model: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        assert main(["sample", str(model), "--n", "3", *COMMON, "--dtype", dtype, "--out", str(tmp_path / dtype)]) == 0
    difference = np.concatenate(
        [pixels(f) - pixels(tmp_path / "bfloat16" / f.name) for f in (tmp_path / "float32").iterdir()]
    )
    assert difference.any()
    assert np.sqrt((difference**2).mean()) < 12


def test_the_onnx_runtime_makes_the_same_images(model: Path, tmp_path: Path, no_shape_checks: None) -> None:
    for runtime in ("pytorch", "onnxruntime"):
        args = ["--n", "2", *COMMON, "--runtime", runtime, "--out", str(tmp_path / runtime)]
        assert main(["sample", str(model), *args]) == 0
    for file in (tmp_path / "pytorch").iterdir():
        assert abs(pixels(file) - pixels(tmp_path / "onnxruntime" / file.name)).max() <= 1
        assert read_provenance(tmp_path / "onnxruntime" / file.name)["runtime"] == "onnxruntime"
