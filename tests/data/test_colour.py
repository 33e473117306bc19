import numpy as np
import pytest
from PIL import Image

from undye.data.colour import BadImageError, flatten, has_colour, to_channels


def flat(image):
    return np.asarray(flatten(image))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_is_scaled_not_clipped(mode):
    values = np.arange(65536).reshape(256, 256)
    if mode == "I;16B":
        image = Image.frombytes(mode, (256, 256), values.astype(">u2").tobytes())
    else:
        image = Image.fromarray(values.astype(np.int32 if mode == "I" else np.uint16))
    assert image.mode == mode
    assert np.array_equal(flat(image), np.rint(values / 257))


def test_16_bit_key_colour_is_transparent():
    image = Image.fromarray(np.array([[0, 1000]], dtype=np.uint16))
    image.info["transparency"] = 1000
    assert flat(image).tolist() == [[0, 255]]


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_outside_16_bits(value):
    with pytest.raises(BadImageError, match=r"outside 0\.\.65535"):
        flatten(Image.fromarray(np.array([[value]], dtype=np.int32)))


def test_floats():
    assert flat(Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32))).tolist() == [[0, 128, 255]]
    for bad in (-0.1, 1.5, np.nan, np.inf):
        with pytest.raises(BadImageError, match=r"outside 0\.\.1"):
            flatten(Image.fromarray(np.array([[0.5, bad]], dtype=np.float32)))


def test_transparency_goes_over_white():
    rgba = Image.new("RGBA", (1, 1), (200, 0, 0, 0))
    assert flat(rgba).tolist() == [[[255, 255, 255]]]
    half = flat(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert abs(int(half[0, 0, 0]) - 127) <= 1
    grey = flat(Image.new("LA", (1, 1), (0, 0)))
    assert grey.tolist() == [[[255, 255, 255]]]


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert flat(image).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.info["transparency"] = 1
    assert flat(image).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_other_modes():
    assert flat(Image.new("1", (1, 1), 1)).tolist() == [[255]]
    assert flat(Image.new("L", (1, 1), 7)).tolist() == [[7]]
    assert flat(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).tolist() == [[[255, 0, 0]]]
    assert flat(Image.new("YCbCr", (1, 1), (90, 128, 128))).tolist() == [[[90, 90, 90]]]


def test_colour_is_where_channels_differ():
    grey = np.full((2, 2, 3), 9, dtype=np.uint8)
    assert not has_colour(grey)
    assert not has_colour(grey[..., :1])
    for channel in range(3):
        tinted = grey.copy()
        tinted[1, 0, channel] = 10
        assert has_colour(tinted)


def test_luma_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    assert np.array_equal(to_channels(pixels, 1)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_grey_survives_both_ways():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert to_channels(grey, 3).shape == (16, 16, 3)
    assert np.array_equal(to_channels(to_channels(grey, 3), 1), grey)
