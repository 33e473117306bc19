import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from undye.data.resize import crop_box, fit

SIDE = st.integers(1, 300)


@given(SIDE, SIDE, SIDE, SIDE)
def test_box_keeps_the_aspect_lies_inside_and_is_centred(h, w, th, tw):
    left, top, right, bottom = crop_box((h, w), (th, tw))
    assert (right - left) / tw == pytest.approx((bottom - top) / th, rel=1e-9)
    assert 0 <= left <= right <= w + 1e-9
    assert 0 <= top <= bottom <= h + 1e-9
    assert right - left == pytest.approx(w) or bottom - top == pytest.approx(h)  # as large as can be
    assert abs(left - (w - right)) <= 2
    assert abs(top - (h - bottom)) <= 2


@given(SIDE, SIDE, st.integers(1, 64), st.integers(1, 64))
def test_exactly_the_asked_size(h, w, th, tw):
    assert fit(Image.new("L", (w, h)), (th, tw)).size == (tw, th)


@pytest.mark.parametrize(("h", "w", "target"), [(120, 200, (48, 48)), (200, 120, (48, 48)), (160, 160, (40, 80))])
def test_a_circle_stays_a_circle(h, w, target):
    y, x = np.mgrid[:h, :w]
    disc = ((y - h / 2 + 0.5) ** 2 + (x - w / 2 + 0.5) ** 2 < 25**2) * np.uint8(255)
    small = np.asarray(fit(Image.fromarray(disc), target)) / 255.0
    y, x = np.mgrid[: target[0], : target[1]]
    mass = small.sum()
    spread = [(small * (c - (small * c).sum() / mass) ** 2).sum() / mass for c in (y, x)]
    assert spread[0] == pytest.approx(spread[1], rel=0.02)
    scale = max(target[0] / h, target[1] / w)
    assert mass == pytest.approx(np.pi * 25**2 * scale**2, rel=0.02)


def test_a_crop_without_scaling_copies_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (33, 28), dtype=np.uint8)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), (28, 28))), pixels[2:30])


def test_antialiased():
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255  # every other column: a nearest-neighbour quarter would be all white or all black
    small = np.asarray(fit(Image.fromarray(stripes), (16, 16)))[2:-2, 2:-2]
    assert abs(small.astype(int) - 128).max() < 8
