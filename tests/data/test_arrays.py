import io
import pickle

import numpy as np
import pytest

from undye.data import load_images
from undye.errors import UserError

COLOUR = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def everything(source):
    return source.images(np.arange(len(source)))


def test_array():
    assert np.array_equal(everything(load_images(COLOUR)), COLOUR)
    assert load_images(COLOUR).describe() == "array: 5 images 6x8x3"
    assert np.array_equal(everything(load_images(GREY)), GREY[..., None])


def test_channels():
    grey_as_rgb = np.repeat(GREY[..., None], 3, axis=3)
    assert np.array_equal(everything(load_images(grey_as_rgb)), GREY[..., None])
    assert np.array_equal(everything(load_images(GREY, channels=3)), grey_as_rgb)
    assert load_images(COLOUR, channels=1).channels == 1


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", COLOUR)
    source = load_images(tmp_path / "a.npy")
    assert np.array_equal(everything(source), COLOUR)
    everything(source)[:] = 0  # a copy: the file is not touched
    assert np.array_equal(np.load(tmp_path / "a.npy"), COLOUR)


def test_npz_images_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, other=GREY, images=COLOUR, labels=np.array([0, 2, 1, 0, 2], dtype=np.uint8))
    source = load_images(str(path))
    assert np.array_equal(everything(source), COLOUR)
    assert source.class_names == ("0", "1", "2")
    assert source.labels(np.array([1, 4])).tolist() == [2, 2]
    assert load_images(path, labels="none").class_names is None
    np.savez(path, GREY, COLOUR)  # the first one, then
    assert load_images(path).channels == 1
    assert load_images(path).class_names is None


def test_resize():
    assert everything(load_images(COLOUR, image_size=(4, 4))).shape == (5, 4, 4, 3)
    assert everything(load_images(GREY, image_size=(4, 4))).shape == (5, 4, 4, 1)
    assert np.array_equal(everything(load_images(COLOUR, image_size=(6, 6))), COLOUR[:, :, 1:7])
    with pytest.raises(UserError, match=r"6x8 is smaller than 8x8.*--upscale"):
        load_images(COLOUR, image_size=(8, 8))
    assert load_images(COLOUR, image_size=(8, 8), upscale=True).image_size == (8, 8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (COLOUR / 255.0, "float64, not uint8.*convert"),
        (COLOUR.transpose(0, 3, 1, 2), "5x3x6x8, channels first.*transpose"),
        (COLOUR[0, 0], r"8x3: images are an array \(N, H, W, C\)"),
        (np.zeros((2, 4, 4, 4), dtype=np.uint8), "C 1 or 3"),
        (COLOUR[:0], "no images"),
    ],
)
def test_wrong_arrays(array, message):
    with pytest.raises(UserError, match=message):
        load_images(array)


@pytest.mark.parametrize("labels", [np.zeros(4, int), np.zeros(5), np.full(5, -1), np.zeros((5, 1), int)])
def test_wrong_labels(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=COLOUR, labels=labels)
    with pytest.raises(UserError, match="5 integers from 0"):
        load_images(tmp_path / "a.npz")
    assert len(load_images(tmp_path / "a.npz", labels="none")) == 5


def damaged_npz():
    file = io.BytesIO()
    np.savez_compressed(file, images=COLOUR)
    content = bytearray(file.getvalue())
    content[len(content) // 2] ^= 255
    return bytes(content)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04cut", damaged_npz()])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .* as a numpy array file") as error:
        load_images(tmp_path / name)
    assert "\n" not in str(error.value)


def test_npz_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.arange(3))
    with pytest.raises(UserError, match="holds no array of images"):
        load_images(tmp_path / "a.npz")


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_pickle_is_never_opened(tmp_path, name):
    objects = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "a.npz", images=objects)
    np.save(tmp_path / "a.npy", objects)
    with pytest.raises(UserError, match="cannot read"):
        load_images(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="cannot read"):
        load_images(tmp_path / name)
