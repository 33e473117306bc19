"""Nearest neighbours are those of brute force, in features and pixels, and are shown."""

import numpy as np
import pytest

from undye.data.source import ArraySource
from undye.errors import UserError
from undye.metrics import neighbours as module
from undye.metrics.neighbours import nearest, nearest_features, nearest_images, neighbour_picture

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (90, 5, 4, 3), dtype=np.uint8)
SOURCE = ArraySource("train", IMAGES)
QUERIES = RNG.integers(0, 256, (13, 5, 4, 3), dtype=np.uint8)


def by_force(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    d = np.sqrt(((x[:, None].astype(float) - y) ** 2).sum(-1))
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(d, order, 1)


@pytest.mark.parametrize("chunk", [1, 7, 90, 4096])
@pytest.mark.parametrize("k", [1, 5, 90])
def test_as_brute_force_in_chunks_of_any_size(monkeypatch, chunk, k):
    monkeypatch.setattr(module, "QUERIES", 5)
    x, y = QUERIES.reshape(13, -1), IMAGES.reshape(90, -1)
    ticks = []
    found = nearest(x, 90, lambda rows: y[rows], k, lambda *args: ticks.append(args), chunk)
    indices, distances = by_force(x, y, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    assert ticks[-1] == (90, 90)


def test_features_far_from_0():
    y = RNG.standard_normal((200, 8)) + 1e6
    x = np.concatenate([y[:3], RNG.standard_normal((20, 8)) + 1e6])
    found = nearest_features(x, y, 4)
    indices, distances = by_force(x, y, 4)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9, atol=1e-12)
    assert (found.distances[:3, 0] == 0).all()


def test_pixels_by_root_mean_square():
    found = nearest_images(QUERIES, SOURCE, 3)
    expected = np.sqrt(((QUERIES[2].astype(float) - IMAGES[found.indices[2, 1]]) ** 2).mean())
    assert found.distances[2, 1] == pytest.approx(expected, rel=1e-14)
    copies = nearest_images(IMAGES[[4, 8]], SOURCE, 2)
    assert copies.indices[:, 0].tolist() == [4, 8]
    assert copies.distances[:, 0].tolist() == [0, 0]


def test_of_equal_ones_the_first_comes_first():
    twice = np.concatenate([IMAGES[:6], IMAGES[:6]]).reshape(12, -1)
    for chunk in (4, 6, 100):
        found = nearest(twice[:6], 12, lambda rows: twice[rows], 2, chunk=chunk)
        assert found.indices.tolist() == [[i, i + 6] for i in range(6)]
    for k in (1, 3):
        alike = nearest(np.zeros((1, 2)), 50, lambda rows: np.ones((len(rows), 2)), k, chunk=7)
        assert alike.indices[0].tolist() == list(range(k))


def test_the_picture_shows_each_sample_and_its_neighbours():
    found = nearest_images(QUERIES, SOURCE, 3)
    picture = neighbour_picture(QUERIES, SOURCE, found, rows=2)
    assert picture.shape == (2 + 2 * 7, (2 + 6) + 4 + (2 + 3 * 6), 3)
    np.testing.assert_array_equal(picture[2:7, 2:6], QUERIES[0])
    np.testing.assert_array_equal(picture[9:14, 14:18], IMAGES[found.indices[1, 0]])
    np.testing.assert_array_equal(picture[9:14, 26:30], IMAGES[found.indices[1, 2]])
    assert (picture[:, 8:12] == 255).all()
    assert neighbour_picture(QUERIES[:1], SOURCE, found).shape[0] == 9, "fewer samples than rows"


def test_what_has_no_neighbours():
    with pytest.raises(UserError, match="91 nearest images cannot be found among 90"):
        nearest_images(QUERIES, SOURCE, 91)
    with pytest.raises(UserError, match="at least 1"):
        nearest_images(QUERIES, SOURCE, 0)
    with pytest.raises(UserError, match="same kind"):
        nearest_images(QUERIES[:, :4], SOURCE)
    with pytest.raises(UserError, match="use one network"):
        nearest_features(np.zeros((3, 4)), np.zeros((9, 5)))
