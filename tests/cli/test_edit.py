"""The editing commands as a user meets them: what they write, and one line for each bad request."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.edit.models import model
from undye.checkpoint.native import save
from undye.cli.main import main
from undye.pictures import GAP

HOLE = np.zeros((8, 12), np.uint8)
HOLE[2:5, 3:7] = 255
QUICK = ("--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey and a colour model, images and masks."""
    folder = tmp_path_factory.mktemp("edit")
    save(folder / "grey", model(channels=1))
    save(folder / "colour", model())
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 256, (3, 8, 12, c), dtype=np.uint8) for c in (1, 3))
    np.savez(folder / "grey.npz", images=grey)
    for k in range(2):
        Image.fromarray(grey[k, :, :, 0]).save(folder / f"g{k}.png")
    Image.fromarray(np.repeat(grey[0], 3, axis=2)).save(folder / "grey-as-rgb.png")
    Image.fromarray(colour[0]).save(folder / "c.png")
    Image.fromarray(colour[0].repeat(3, 0).repeat(3, 1)).save(folder / "large.png")
    Image.fromarray(HOLE).save(folder / "mask.png")
    Image.merge("LA", [Image.fromarray(HOLE), Image.fromarray(255 - HOLE)]).save(folder / "clear.png")
    Image.fromarray(HOLE).convert("1").save(folder / "mask1.png")
    Image.fromarray(HOLE[:, 1:]).save(folder / "narrow.png")
    Image.fromarray(HOLE * 0).save(folder / "black.png")
    np.save(folder / "mask.npy", HOLE > 0)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return folder


def cells(path: Path, columns: int) -> np.ndarray:
    """The images of a grid of 8 x 12 ones, (rows, columns, 8, 12), in one channel, not enlarged."""
    sheet = np.asarray(Image.open(path).convert("L"))
    factor = sheet.shape[1] // (columns * (12 + GAP) + GAP)
    sheet = sheet[::factor, ::factor]
    rows = (sheet.shape[0] - GAP) // (8 + GAP)
    return np.array(
        [[sheet[GAP + r * (8 + GAP) :, GAP + c * (12 + GAP) :][:8, :12] for c in range(columns)] for r in range(rows)]
    )


def run(*args: object) -> None:
    assert main([*map(str, args), *QUICK]) == 0


def test_inpaint(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of mask file and of image source gives the same; the grid shows image, mask and results."""
    common = ("--steps", "4", "--n", "2", "--resamplings", "2")
    for k, mask in enumerate(("mask.png", "mask1.png", "mask.npy")):
        out = tmp_path / f"{k}.npz"
        run("inpaint", place / "grey", place / "g0.png", "--mask", place / mask, *common, "--out", out)
        assert capsys.readouterr().out == f"{out}\n"
    first, *others = (np.load(tmp_path / f"{k}.npz")["images"] for k in range(3))
    assert all(np.array_equal(first, other) for other in others)
    given = np.asarray(Image.open(place / "g0.png"))
    assert np.array_equal(first[:, HOLE == 0, 0], given[HOLE == 0][None].repeat(2, 0))

    run(
        "inpaint",
        place / "grey",
        place / "grey.npz",
        "--mask",
        place / "mask.png",
        *common,
        "--out",
        tmp_path / "g.png",
    )
    grid = cells(tmp_path / "g.png", 4)
    assert grid.shape[0] == 3
    assert np.array_equal(grid[0, 0], given)
    assert np.array_equal(grid[0, 1], np.where(HOLE, 128, given))
    assert np.abs(grid[0, 2:].astype(int) - first[..., 0]).max() <= 1


def test_img2img_and_where_images_come_from(place: Path, tmp_path: Path) -> None:
    """A file, a grey picture stored in colour, a row of an array: the same image, so the same result."""
    sources = [
        (place / "g0.png",), (place / "grey-as-rgb.png",), ("--data", place / "grey.npz", "--index", "0"),
    ]  # fmt: skip
    for k, source in enumerate(sources):
        run("img2img", place / "grey", *source, "--strength", "0.4", "--steps", "3", "--out", tmp_path / f"{k}.npz")
    first, *others = (np.load(tmp_path / f"{k}.npz")["images"] for k in range(3))
    assert first.shape == (1, 8, 12, 1)
    assert all(np.array_equal(first, other) for other in others)
    # several, into a folder; and one that has to be fitted, and one that may serve as colour
    run("img2img", place / "colour", place / "c.png", place / "g1.png", "--steps", "2", "--out", tmp_path / "many")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["000000.png", "000001.png"]
    run("img2img", place / "grey", place / "large.png", "--fit", "--steps", "2", "--out", tmp_path / "fit.png")
    assert (tmp_path / "fit.png").exists()


def test_interpolate(place: Path, tmp_path: Path) -> None:
    out, pair = tmp_path / "way.png", (place / "g0.png", place / "g1.png")
    run("interpolate", place / "grey", *pair, "--points", "3", "--t", "5", "20", "--steps", "2", "--out", out)
    grid = cells(out, 5)
    assert len(grid) == 2
    for row in grid:
        assert np.array_equal(row[0], np.asarray(Image.open(pair[0])))
        assert np.array_equal(row[-1], np.asarray(Image.open(pair[1])))
    run("interpolate", place / "grey", *pair, "--method", "inverted", "--steps", "4", "--out", tmp_path / "i.npz")
    assert np.load(tmp_path / "i.npz")["images"].shape == (9, 8, 12, 1)
    run(
        "interpolate",
        place / "grey",
        "--samples",
        "0",
        "3",
        "--points",
        "4",
        "--steps",
        "2",
        "--out",
        tmp_path / "s.npz",
    )
    assert np.load(tmp_path / "s.npz")["images"].shape == (4, 8, 12, 1)


def test_progressive(place: Path, tmp_path: Path) -> None:
    out, film = tmp_path / "p.npz", tmp_path / "p.gif"
    run("progressive", place / "grey", "--n", "2", "--frames", "3", "--steps", "5", "--out", out, "--film", film)
    assert np.load(out)["images"].shape == (6, 8, 12, 1)
    assert Image.open(film).n_frames == 3  # pyrefly: ignore
    run("progressive", place / "grey", "--shared", "--n", "2", "--steps", "5", "--out", tmp_path / "s.png")
    assert cells(tmp_path / "s.png", 3).shape[0] == 4


def test_denoise(place: Path, tmp_path: Path) -> None:
    run("denoise", place / "grey", place / "grey.npz", "--sigma", "25", "--out", tmp_path / "d.png")
    assert cells(tmp_path / "d.png", 2).shape[0] == 3
    run("denoise", place / "grey", place / "g0.png", "--sigma", "25", "--degrade", "--draw", "--n", "2", "--steps", "2",
        "--out", tmp_path / "e.png")  # fmt: skip
    assert np.array_equal(cells(tmp_path / "e.png", 4)[0, 0], np.asarray(Image.open(place / "g0.png")))


def test_restore(place: Path, tmp_path: Path) -> None:
    run("restore", place / "grey", place / "g0.png", "--degrade", "--steps", "2", "--out", tmp_path / "r.png")
    grid = cells(tmp_path / "r.png", 3)
    squares = [x.reshape(2, 4, 3, 4).astype(float).mean((1, 3)) for x in grid[0]]
    assert np.array_equal(squares[1], squares[2])
    assert np.abs(squares[1] - squares[0]).max() <= 0.5
    Image.fromarray(squares[1].astype(np.uint8)).save(tmp_path / "small.png")
    run("restore", place / "grey", tmp_path / "small.png", "--steps", "2", "--out", tmp_path / "s.npz")
    assert np.array_equal(np.load(tmp_path / "s.npz")["images"][0, ..., 0], grid[0, 2])
    run(
        "restore",
        place / "colour",
        place / "g0.png",
        "--task",
        "colourise",
        "--steps",
        "2",
        "--out",
        tmp_path / "c.png",
    )
    assert (tmp_path / "c.png").exists()
    run(
        "restore",
        place / "grey",
        tmp_path / "small.png",
        "--method",
        "dps",
        "--steps",
        "2",
        "--out",
        tmp_path / "d.npz",
    )


BAD = {
    "no output": ("inpaint grey g0.png --mask mask.png", "nothing to write"),
    "no mask": ("inpaint grey g0.png --out O.png", "no mask: give --mask"),
    "missing mask": ("inpaint grey g0.png --mask nowhere.png --out O.png", "no mask at"),
    "mask of another size": (
        "inpaint grey g0.png --mask narrow.png --out O.png",
        "the mask is 8x11, the images are 8x12",
    ),
    "unreadable mask": ("inpaint grey g0.png --mask broken.png --out O.png", "cannot read the mask"),
    "a transparent mask": ("inpaint grey g0.png --mask clear.png --out O.png", "clear.png is transparent in parts"),
    "black mask": ("inpaint grey g0.png --mask black.png --out O.png", "nothing to fill"),
    "no image": ("img2img grey --out O.png", "give images to edit"),
    "two sources": ("img2img grey g0.png --data grey.npz --out O.png", "one or the other"),
    "missing image": ("img2img grey nowhere.png --out O.png", "no image at"),
    "unreadable image": ("img2img grey broken.png --out O.png", "cannot read the image"),
    "missing model": ("img2img nowhere g0.png --out O.png", "no model at"),
    "missing data": ("img2img grey --data nowhere --out O.png", "no data set, folder or file"),
    "index": ("img2img grey --data grey.npz --index 3 --out O.png", "has images 0..2: there is no image 3"),
    "wrong size": ("img2img colour large.png --out O.png", "large.png is 24x36 with 3 channels, this needs 8x12"),
    "wrong channels": ("img2img grey c.png --out O.png", "with 3 channels, this needs 8x12 with 1 channel: --fit"),
    "strength": ("img2img grey g0.png --strength 1.5 --out O.png", "strength must lie in (0, 1], got 1.5"),
    "sampler": ("img2img grey g0.png --sampler nothing --out O.png", "unknown sampler 'nothing'"),
    "steps": ("img2img grey g0.png --steps 0 --out O.png", "number of steps must lie in"),
    "label": ("img2img grey g0.png --label 1 --out O.png", "trained without labels"),
    "ending": ("img2img grey g0.png --out O.jpg", "cannot write"),
    "one image": ("interpolate grey g0.png --out O.png", "between two images"),
    "time": ("interpolate grey g0.png g1.png --t 50 --out O.png", "time t must lie in 1..40"),
    "samples and images": ("interpolate grey g0.png --samples 0 1 --out O.png", "leave the images"),
    "t without shared": ("progressive grey --t 5 --out O.png", "are for --shared"),
    "film with shared": ("progressive grey --shared --film F.gif --out O.png", "not for --shared"),
    "film's ending": ("progressive grey --film F.jpg --out O.png", "cannot write the film"),
    "no sigma": ("denoise grey g0.png --out O.png", "give --sigma"),
    "sigma": ("denoise grey g0.png --sigma 0.01 --out O.png", "sigma must lie in"),
    "draws of a mean": ("denoise grey g0.png --sigma 25 --n 2 --out O.png", "the mean is one image"),
    "colourise": ("restore grey g0.png --task colourise --out O.png", "this model knows no colours"),
    "factor": ("restore grey g0.png --factor 3 --out O.png", "the factor must be at least 2 and divide"),
    "full size": ("restore grey g0.png --out O.png", "g0.png is 8x12 with 1 channel, this needs 2x3"),
    "scale": ("restore grey g0.png --degrade --scale 2 --out O.png", "--scale is for --method dps"),
}


@pytest.mark.parametrize(("line", "says"), BAD.values(), ids=BAD)
def test_bad_requests(line: str, says: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, nothing written."""
    outputs = {"O.png", "O.jpg", "F.gif", "F.jpg"}
    words = [
        str(tmp_path / w) if w in outputs else str(place / w) if (place / w).exists() or "nowhere" in w else w
        for w in line.split()
    ]
    assert main([*words, *QUICK]) == 2
    err = capsys.readouterr().err
    assert err.startswith("undye: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert not any(tmp_path.iterdir())
