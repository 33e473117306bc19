"""Batches are a function of (seed, step)."""

from itertools import islice

import numpy as np
import pytest
import torch

from undye.data.source import ArraySource
from undye.training.batches import BatchStream


def source(n: int) -> ArraySource:
    """Image number i is filled with i, its left half darkened so that a flip shows."""
    images = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 4, 4, 1) + np.uint8(100)
    images[:, :, :2] = 0
    return ArraySource("numbers", images, np.arange(n) % 3, ("a", "b", "c"))


def numbers(batch) -> list[int]:
    return ((batch.x_0.amax(dim=(1, 2, 3)) + 1) * 127.5).round().int().sub(100).tolist()


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (3, 8), (5, 1)])
def test_each_epoch_shows_every_image_once(n: int, size: int) -> None:
    stream = BatchStream(source(n), size, seed=1)
    seen = [i for batch in islice(stream.since(0), 4 * n) for i in numbers(batch)]
    for epoch in range(len(seen) // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert seen[:n] != seen[n : 2 * n] or n < 4, "epochs are shuffled anew"


def test_a_stream_goes_on_from_any_step() -> None:
    stream = BatchStream(source(10), 4, seed=1, flip=True, labels=True)
    whole = list(islice(stream.since(0), 8))
    rest = list(islice(stream.since(5), 3))
    for a, b in zip(whole[5:], rest, strict=True):
        assert torch.equal(a.x_0, b.x_0)
        assert a.label is not None
        assert b.label is not None
        assert torch.equal(a.label, b.label)


def test_preparing_ahead_changes_nothing() -> None:
    plain, ahead = BatchStream(source(9), 4, 3, True), BatchStream(source(9), 4, 3, True, ahead=3)
    for a, b in zip(islice(plain.since(2), 6), islice(ahead.since(2), 6), strict=True):
        assert torch.equal(a.x_0, b.x_0)


def test_seeds_differ() -> None:
    a, b = (BatchStream(source(50), 50, seed).at(0) for seed in (0, 1))
    assert numbers(a) != numbers(b)


def test_flips_mirror_about_half_of_the_images() -> None:
    batch = BatchStream(source(100), 400, seed=0, flip=True).at(0)
    mirrored = batch.x_0[:, 0, 0, 0] > -1
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(mirrored, batch.x_0[:, 0, 0, 3] == -1)
    plain = BatchStream(source(100), 400, seed=0).at(0)
    assert bool((plain.x_0[:, 0, 0, 0] == -1).all())


def test_labels_belong_to_their_images() -> None:
    batch = BatchStream(source(20), 20, seed=0, labels=True).at(0)
    assert batch.label is not None
    assert batch.label.tolist() == [i % 3 for i in numbers(batch)]
