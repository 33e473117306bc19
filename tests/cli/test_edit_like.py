"""Edits' pictures say how they were made, and are made again from that: the same, or one line for what has changed."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.edit.models import model
from undye.checkpoint.native import save
from undye.cli.main import main
from undye.config import ScheduleConfig
from undye.provenance import KEY, read_provenance

QUICK = ("--threads", "1")
HOLE = np.zeros((8, 12), np.uint8)
HOLE[2:5, 3:7] = 255

LABELLED = "--label 2 --guidance 1.5"
PAIR = "interpolate model g0.png g1.png --points 3 --steps 2"
EDITS = {
    "inpaint": f"inpaint model g0.png g1.png --mask mask.png --n 2 --steps 4 --resamplings 2 {LABELLED} --seed 4",
    "inpaint, a mask each": "inpaint model g0.png g1.png --mask masks.npy --n 2 --steps 3 --jump 1",
    "img2img": f"img2img model three.npz --strength 0.4 --steps 3 --n 2 --sampler heun {LABELLED}",
    "img2img of data": "img2img model --data three.npz --index 2 0 --steps 3 --n 2",
    "img2img, fitted": "img2img model large.png --fit --steps 3 --n 2",
    "interpolate": f"{PAIR} --t 5 20 {LABELLED}",
    "interpolate two pairs": "interpolate model g0.png g1.png g1.png g0.png --points 3 --t 5 20 --steps 2",
    "inverted": f"{PAIR} --method inverted",
    "inverted, two pairs": f"{PAIR} --method inverted {LABELLED}".replace("g1.png", "g1.png g1.png g0.png"),
    "samples": "interpolate model --samples 1 3 --points 4 --steps 3",
    "progressive": f"progressive model --n 3 --frames 3 --steps 5 --seed 2 {LABELLED}",
    "shared": "progressive model --shared --n 2 --groups 2 --t 30 10 --steps 5",
    "denoise": "denoise model g0.png g1.png --sigma 25",
    "denoise, draws": f"denoise model g0.png g1.png --sigma 25 --degrade --draw --n 2 --steps 2 {LABELLED}",
    "super-resolution": "restore model g0.png g1.png --degrade --steps 3 --n 2",
    "small": "restore model small.png --steps 3 --n 2",
    "dps": "restore model g0.png --degrade --method dps --scale 0.5 --steps 3 --n 2",
    "colourise": "restore colour g0.png --task colourise --steps 2 --n 2",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, images and masks."""
    folder = tmp_path_factory.mktemp("source")
    save(folder / "model", model(channels=1, num_classes=3))
    save(folder / "colour", model())
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 8, 12, 1), dtype=np.uint8)
    np.savez(folder / "three.npz", images=grey)
    for k in range(2):
        Image.fromarray(grey[k, :, :, 0]).save(folder / f"g{k}.png")
    Image.fromarray(grey[2, ::4, ::4, 0]).save(folder / "small.png")
    Image.fromarray(grey[2, :, :, 0].repeat(3, 0).repeat(3, 1)).save(folder / "large.png")
    Image.fromarray(HOLE).save(folder / "mask.png")
    np.save(folder / "masks.npy", np.stack([HOLE, HOLE[::-1]]))
    # one picture of each edit, for tests that change it
    with contextlib.chdir(folder):
        for name in ("img2img", "interpolate", "shared", "progressive", "samples", "denoise", "small", "inpaint"):
            run(f"{EDITS[name]} --out of-{name}.png")
    return folder


@pytest.fixture
def place(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with all of that."""
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> None:
    assert main([*line.split(), *QUICK]) == 0


def fails(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """One line, exit code 2, and nothing written."""
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    assert main([*line.split(), *QUICK]) == 2
    err = capsys.readouterr().err
    assert err.startswith("undye: error: ")
    assert len(err.splitlines()) == 1
    assert sorted(Path.cwd().rglob("*")) == before
    return err


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def tampered(name: str, found: object) -> str:
    info = PngInfo()
    info.add_itxt(KEY, found if isinstance(found, str) else json.dumps(found))
    Image.new("L", (4, 4)).save(name, pnginfo=info)
    return name


@pytest.mark.parametrize("line", EDITS.values(), ids=EDITS)
def test_every_edit_is_made_again(place: Path, line: str) -> None:
    """The grid to the bit, with the same words in it; of a folder one picture alone, to rounding."""
    run(f"{line} --out grid.png")
    run("sample --like grid.png --out again.png")
    assert np.array_equal(pixels("again.png"), pixels("grid.png"))
    assert read_provenance(Path("again.png")) == read_provenance(Path("grid.png"))
    run("sample --like grid.png --out all.npz")

    run(f"{line} --out all/")
    files = sorted((place / "all").iterdir())
    assert np.array_equal(np.load("all.npz")["images"].squeeze(), np.stack([pixels(f) for f in files]))
    for k in {1, len(files) - 1}:
        run(f"sample --like {files[k]} --out one{k}.png")
        run(f"sample --like {files[k]} --out one{k}/")
        assert np.abs(pixels(f"one{k}.png") - pixels(files[k])).max() <= 1
        assert np.array_equal(pixels(f"one{k}/000000.png"), pixels(f"one{k}.png"))
        found = read_provenance(files[k])
        assert read_provenance(Path(f"one{k}.png")) == read_provenance(Path(f"one{k}/000000.png")) == found


def test_what_a_picture_says(place: Path) -> None:
    run(f"{EDITS['inpaint']} --out grid.png")
    run(f"{EDITS['inpaint']} --out all")
    found = read_provenance(place / "grid.png")
    assert (found["command"], found["model"], found["weights"], found["result"]) == ("inpaint", "model", "ema", None)
    assert len(found["sha256"]) == 64
    settings = found["settings"]
    assert settings == {
        "seed": 4, "label": 2, "guidance": 1.5, "n": 2, "times": [40.0, 30.0, 20.0, 10.0, 0.0], "jump": 2,
        "resamplings": 2,
    }  # fmt: skip
    inputs = found["inputs"]
    assert [image["file"] for image in inputs["images"]] == ["g0.png", "g1.png"]
    assert (inputs["mask"]["file"], inputs["shape"], inputs["fit"]) == ("mask.png", [8, 12, 1], False)
    one = read_provenance(place / "all" / "000003.png")
    assert one["result"] == {"image": 1, "variation": 1}
    assert [image["file"] for image in one["inputs"]["images"]] == ["g1.png"]
    assert one["settings"] == settings

    run("img2img model --data three.npz --index 2 --steps 3 --out b.png")
    found = read_provenance(place / "b.png")
    (image,) = found["inputs"]["images"]
    assert (image["data"], image["index"], image["split"]) == ("three.npz", 2, "test")
    assert found["settings"]["sampler"] == {"name": "ancestral", "options": {"clip": None, "variance": None}}
    assert found["settings"]["strength"] == 0.5


def test_defaults_of_later_do_not_change_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("restore model g0.png --degrade --out a.png")
    run("interpolate model g0.png g1.png --method inverted --t 12 --points 2 --out b.png")
    monkeypatch.setattr("undye.edit.restore.RESAMPLINGS", 1)
    monkeypatch.setattr("undye.edit.restore.ETA", 0.1)
    monkeypatch.setattr("undye.edit.grid.DEFAULT_STEPS", 7)
    monkeypatch.setattr("undye.edit.interpolate.INVERSION_ITERATIONS", 0)
    for name in ("a", "b"):
        run(f"sample --like {name}.png --out {name}2.png")
        assert np.array_equal(pixels(f"{name}.png"), pixels(f"{name}2.png"))


@pytest.mark.parametrize("ending", ["apng", "png"])
def test_a_film_is_made_again(place: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{EDITS['progressive']} --out a.png --film f.{ending}")
    assert read_provenance(place / f"f.{ending}") == read_provenance(place / "a.png")
    run(f"sample --like f.{ending} --out b.png --film g.{ending}")
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert Path(f"f.{ending}").read_bytes() == Path(f"g.{ending}").read_bytes()
    run(f"{EDITS['shared']} --out c.png")
    assert "shows no film" in fails(capsys, "sample --like c.png --out d.png --film d.gif")


def test_what_has_changed_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{EDITS['inpaint']} --out a.png")
    run("img2img model --data three.npz --index 0 2 --steps 2 --out d.png")
    run("inpaint model g0.png g1.png --mask masks.npy --steps 2 --out each")
    again = "sample --like a.png --out b.png"

    kept = (place / "g1.png").read_bytes()
    changed = np.array(Image.open(place / "g1.png"))
    changed[0, 0] ^= 1
    Image.fromarray(changed).save(place / "g1.png")
    assert "g1.png (image 0) has other pixels than when a.png was made" in fails(capsys, again)
    Image.fromarray(changed[:, 1:]).save(place / "g1.png")
    assert "g1.png is 8x11" in fails(capsys, again)
    (place / "g1.png").unlink()
    said = fails(capsys, again)
    assert "no image at g1.png" in said
    assert "a.png" in said
    # of a folder's picture the other images do not matter
    run("sample --like each/000000.png --out first.png")
    (place / "g1.png").write_bytes(kept)

    Image.fromarray(HOLE[::-1]).save(place / "mask.png")
    assert "the mask mask.png has changed" in fails(capsys, again)
    (place / "mask.png").unlink()
    assert "no mask at mask.png" in fails(capsys, again)
    np.save(place / "masks.npy", HOLE)
    assert "there is no mask 1 in masks.npy" in fails(capsys, "sample --like each/000001.png --out b.png")

    images = np.load(place / "three.npz")["images"]
    np.savez(place / "three.npz", images=images[:2])
    assert "there is no image 2 of three.npz" in fails(capsys, "sample --like d.png --out b.png")
    np.savez(place / "three.npz", images=images[::-1])
    assert "image 0 of three.npz has other pixels" in fails(capsys, "sample --like d.png --out b.png")


def test_another_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{EDITS['img2img']} --out a.png")
    save(place / "other", model(channels=1, num_classes=3, prediction="eps"))
    run("sample other --like a.png --out other.png")
    assert "note: another model" in capsys.readouterr().err
    assert not np.array_equal(pixels("other.png"), pixels("a.png"))
    assert read_provenance(place / "other.png")["model"] == "other"
    assert "this model needs 8x12 with 3 channels" in fails(capsys, "sample colour --like a.png --out b.png")
    (place / "model").rename(place / "gone")
    assert "no model at model" in fails(capsys, "sample --like a.png --out b.png")
    (place / "other").rename(place / "model")
    assert "not the one that made a.png" in fails(capsys, "sample --like a.png --out b.png")
    run("sample gone --like a.png --out b.png")
    assert np.array_equal(pixels("b.png"), pixels("a.png"))


CHANGES = {
    "no such command": ("command", "rm"),
    "another format": ("format", 2),
    "no number": ("format", True),
    "a runtime": ("runtime", "onnxruntime"),
    "weights": ("weights", "../ema"),
    "model": ("model", 3),
    "set": ("set", 3),
    "no settings": ("settings", None),
    "settings": ("settings", [1]),
    "seed": ("settings.seed", "x"),
    "huge seed": ("settings.seed", 2**70),
    "label": ("settings.label", 9),
    "label of a type": ("settings.label", [1]),
    "guidance": ("settings.guidance", float("nan")),
    "n": ("settings.n", 0),
    "huge n": ("settings.n", 10**9),
    "unknown setting": ("settings.code", "print(1)"),
    "times": ("settings.times", [40, 50, 0]),
    "no times": ("settings.times", []),
    "times from elsewhere": ("settings.times", [41, 0]),
    "sampler": ("settings.sampler", {"name": "os.system", "options": {}}),
    "sampler's option": ("settings.sampler", {"name": "ddim", "options": {"eta": "1"}}),
    "sampler's value": ("settings.sampler", {"name": "ddim", "options": {"eta": 7}}),
    "sampler's huge value": ("settings.sampler", {"name": "ddim", "options": {"eta": 10**400}}),
    "sampler's kind": ("settings.sampler", "ddim"),
    "no inputs": ("inputs", None),
    "no images": ("inputs.images", []),
    "images": ("inputs.images", ["g0.png"]),
    "a device": ("inputs.images", [{"file": "/dev/zero", "sha256": "0"}]),
    "a folder": ("inputs.images", [{"file": ".", "sha256": "0"}]),
    "a text": ("inputs.images", [{"file": "model/config.json", "sha256": "0"}]),
    "a negative index": ("inputs.images", [{"data": "three.npz", "index": -1, "sha256": "0"}]),
    "mask": ("inputs.mask", {"file": "mask.png"}),
    "shape": ("inputs.shape", [8, 12, 3]),
    "no shape": ("inputs.shape", None),
    "result": ("result", 3),
    "result of none": ("result", {"image": 0, "variation": 2}),
    "result below": ("result", {"image": -1, "variation": 0}),
    "result of several": ("result", {"image": 0, "variation": 0}),
}


def with_change(found: dict, change: tuple[str, object]) -> dict:
    """What a picture says, with one thing put in."""
    found = json.loads(json.dumps(found))
    *path, last = change[0].split(".")
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = change[1]
    return found


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_picture_is_not_trusted(place: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, object]) -> None:
    tampered("x.png", with_change(read_provenance(place / "of-img2img.png"), change))
    fails(capsys, "sample --like x.png --out y.png")


@pytest.mark.parametrize("key", ["command", "format", "model", "sha256", "settings", "inputs", "result"])
def test_a_picture_that_lacks_something(place: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    found = read_provenance(place / "of-shared.png")
    del found[key]
    assert "another version" in fails(capsys, f"sample --like {tampered('x.png', found)} --out y.png")


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        ("interpolate", ("settings.t", [])), ("interpolate", ("settings.t", [5, 30])),
        ("interpolate", ("settings.times", [[5, 0]])), ("interpolate", ("settings.points", [])),
        ("interpolate", ("settings.points", [0, 2])), ("interpolate", ("settings.iterations", -1)),
        ("shared", ("settings.t", [])), ("shared", ("settings.t", [29])), ("shared", ("settings.members", 0)),
        ("shared", ("settings.t", [10, 10])), ("shared", ("settings.t", [10, 30])),
        ("progressive", ("settings.frames", 1)), ("progressive", ("settings.times", [0])),
        ("samples", ("settings.samples", [1, -3])), ("samples", ("settings.samples", [1])),
        ("denoise", ("settings.sigma", float("inf"))), ("denoise", ("settings.sigma", 26)),
        ("denoise", ("settings.sigma", -1)), ("denoise", ("settings.times", [])),
        ("small", ("settings.factor", 0)), ("small", ("settings.eta", 3)), ("small", ("settings.jump", 0)),
        ("inpaint", ("inputs.mask", None)), ("inpaint", ("inputs.mask", {"file": "mask.png", "index": 0})),
    ],
)  # fmt: skip
def test_no_setting_is_trusted(
    place: Path, capsys: pytest.CaptureFixture[str], edit: str, change: tuple[str, object]
) -> None:
    tampered("x.png", with_change(read_provenance(place / f"of-{edit}.png"), change))
    fails(capsys, "sample --like x.png --out y.png")
    fails(capsys, "sample --like x.png --out y")


@pytest.mark.parametrize("flag", ["--captions", "--resume", "--frames 3", "--seed 3", "--film f.gif"])
def test_flags_that_do_not_fit(place: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    said = fails(capsys, f"sample --like of-denoise.png --out b {flag}")
    assert flag.split()[0] in said


def test_the_times_of_noise_are_those_of_the_schedule(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another schedule they would be those of other noise, and the result wrong without a word."""
    save(place / "linear", model(channels=1, num_classes=3, schedule=ScheduleConfig(num_steps=40, rescale_betas=True)))
    assert main(["sample", "linear", "--like", "of-denoise.png", "--out", "y.png", "--threads", "1"]) == 2
    assert "undye: error: this model knows noise of sigma 25 at t = " in capsys.readouterr().err
    save(place / "other", model(channels=1, num_classes=3, prediction="eps"))
    run("sample other --like of-denoise.png --out y.png")


@pytest.mark.parametrize("out", ["y.npz", "y"])
def test_more_than_the_memory_holds(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """Said before anything is made: the system would end the program without a word."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**31))
    many = {
        "shared": {"groups": 10**6, "members": 10**6},
        "progressive": {"n": 10**6, "frames": 10**6, "times": [*range(40, -1, -1)]},
        "img2img": {"n": 10**6},
        "interpolate": {"t": [5] * 2_000, "times": [[5, 0]] * 2_000, "points": [0.5] * 2_000},
    }  # fmt: skip
    for name, settings in many.items():
        found = read_provenance(place / f"of-{name}.png")
        found["settings"] |= settings
        if name == "img2img":
            found["inputs"]["images"] *= 3
        tampered("x.png", found)
        assert "GB of memory" in fails(capsys, f"sample --like x.png --out {out}"), name
    assert "GB of memory" in fails(capsys, f"img2img model g0.png --n {10**11} --steps 2 --out {out}")
    assert "at most 1,000,000 points" in fails(capsys, f"interpolate model g0.png g1.png --points {10**10} --out {out}")


def test_what_a_strange_value_says_is_cut_short(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in (("settings.n", "a" * 9000), ("settings.sampler", [1] * 9000), ("settings." + "b" * 9000, 1)):
        tampered("x.png", with_change(read_provenance(place / "of-img2img.png"), change))
        assert len(fails(capsys, "sample --like x.png --out y.png")) < 600


@pytest.mark.parametrize(
    "change",
    [
        ("guidance", "x"), ("guidance", []), ("guidance", None), ("guidance", 10**400), ("guidance_rescale", {}),
        ("guidance_rescale", 3), ("threshold", [0]), ("threshold", "x"), ("threshold", -1), ("n", 1), ("n", 2**64),
        ("label", [0]), ("label", 1), ("options", {"eta": 10**400}),
    ],
)  # fmt: skip
def test_a_picture_of_samples_is_not_trusted_either(
    place: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, object]
) -> None:
    run("sample model --n 2 --sampler ddim --steps 2 --label 1 --guidance 2 --threshold 0.9 --out s.png")
    tampered("x.png", with_change(read_provenance(place / "s.png"), change))
    fails(capsys, "sample --like x.png --out y.png")


@pytest.mark.parametrize("line", [
    "restore model g0.png --degrade --method dps --steps 3 --scale 1e300",
    "sample model --n 1 --sampler heun --steps 3 --s-churn 5 --s-noise 1e38",
])  # fmt: skip
def test_what_is_no_image_is_an_error_of_one_line(place: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert "the images hold NaN" in fails(capsys, f"{line} --out y.png")
