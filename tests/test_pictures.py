"""Images to files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undye.errors import UserError
from undye.film_files import save_film
from undye.pictures import GAP, enlarge, make_grid
from undye.writers import save_images


def images(n: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 5, 7, channels), dtype=np.uint8)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_every_image_is_in_the_grid(n: int) -> None:
    batch = images(n)
    sheet = make_grid(batch, columns=3)
    for i, image in enumerate(batch):
        top, left = GAP + (i // 3) * (5 + GAP), GAP + (i % 3) * (7 + GAP)
        assert np.array_equal(sheet[top : top + 5, left : left + 7], image)


def test_enlarging_repeats_pixels() -> None:
    image = images(1)[0]
    assert np.array_equal(enlarge(image, 20)[::3, ::3], image)
    assert enlarge(image, 5).shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_the_pixels(tmp_path: Path, channels: int) -> None:
    batch = images(3, channels)
    save_images(batch, tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], batch)
    save_images(batch, tmp_path / "folder")
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == ["000000.png", "000001.png", "000002.png"]
    for file, image in zip(files, batch, strict=True):
        pixels = np.asarray(Image.open(file))
        assert np.array_equal(pixels.reshape(image.shape), image)
    save_images(batch, tmp_path / "deep" / "grid.PNG")
    assert Image.open(tmp_path / "deep" / "grid.PNG").mode == ("L" if channels == 1 else "RGB")
    assert not list(tmp_path.rglob("*.tmp*"))


def test_films(tmp_path: Path) -> None:
    frames = [images(4, seed=i) for i in range(6)]
    save_film(frames, tmp_path / "film.gif")
    gif = Image.open(tmp_path / "film.gif")
    assert getattr(gif, "n_frames", 1) == 6
    save_film(frames, tmp_path / "strip.png")
    assert Image.open(tmp_path / "strip.png").size[0] > Image.open(tmp_path / "strip.png").size[1]


@pytest.mark.parametrize("name", ["a.jpg", "a.mpg", "file/x.png", "used", "used/", "file"])
def test_unusable_targets(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_images(images(1), f"{tmp_path}/{name}")
    with pytest.raises(UserError, match="must end in"):
        save_film([images(1)], tmp_path / "a.mpg")


@pytest.mark.parametrize("name", ["v1.0/", "plain", "made.already"])
def test_what_counts_as_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "made.already").mkdir()
    save_images(images(2), f"{tmp_path}/{name}")
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["000000.png", "000001.png"]
