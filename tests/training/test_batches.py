"""Batches are a function of (seed, step)."""

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from undye.data import load_images
from undye.data.source import ArraySource, ImageSource
from undye.errors import TooManyBadImages, UserError
from undye.training.batches import Batch, BatchStream


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
    plain, ahead = BatchStream(source(9), 4, 3, True), BatchStream(source(9), 4, 3, True, ahead=3, workers=2)
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


def folder_source(tmp_path: Path, count: int = 12, size: tuple[int, int] = (4, 12)) -> ImageSource:
    """Image files, each of one shade that grows from left to right, in three classes; decoded when asked for."""
    for k in range(count):
        pixels = np.broadcast_to(np.arange(size[1]) * 10 + k, size).astype(np.uint8)
        path = tmp_path / "abc"[k % 3] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return load_images(tmp_path, image_size=(4, 4), labels="folders", decode_late=True)


def same(a: Iterator[Batch], b: Iterator[Batch], count: int = 6) -> None:
    for one, other in zip(islice(a, count), islice(b, count), strict=True):
        assert torch.equal(one.x_0, other.x_0)
        assert one.label is not None
        assert other.label is not None
        assert torch.equal(one.label, other.label)
        assert one.examples.tolist() == other.examples.tolist()


@pytest.mark.parametrize("balance", ["none", "classes"])
@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (3, 2), (9, 5)])
def test_no_number_depends_on_workers(tmp_path: Path, workers: int, ahead: int, balance: str) -> None:
    images = folder_source(tmp_path)
    options = {"flip": True, "labels": True, "crop": "random", "balance": balance}
    plain = BatchStream(images, 5, 3, **options)
    same(plain.since(4), BatchStream(images, 5, 3, workers=workers, ahead=ahead, **options).since(4))


def test_processes_share_a_batch_with_crops_and_balance(tmp_path: Path) -> None:
    images = folder_source(tmp_path)
    options = {"flip": True, "labels": True, "crop": "random", "balance": "classes"}
    whole = BatchStream(images, 6, 3, **options).at(7)
    parts = [BatchStream(images, 6, 3, share=range(k, k + 3), **options).at(7) for k in (0, 3)]
    assert torch.equal(whole.x_0, torch.cat([part.x_0 for part in parts]))


def test_crops_lie_everywhere_and_are_copies_of_pixels(tmp_path: Path) -> None:
    batch = BatchStream(folder_source(tmp_path), 360, 0, crop="random").at(0)
    rows = ((batch.x_0[:, 0, 0] + 1) * 127.5).round().long()
    assert (rows.diff(dim=1) == 10).all(), "unscaled: what is cut out is what is there"
    lefts = (rows[:, 0] // 10 - (rows[:, 0] % 10 > 20).long()).tolist()
    assert {left for left in lefts} >= set(range(9))
    centre = BatchStream(folder_source(tmp_path), 12, 0).at(0)
    assert set((((centre.x_0[:, 0, 0, 0] + 1) * 127.5).round().long() // 10).tolist()) <= {4, 5}


def test_balanced_batches() -> None:
    labels = np.array([0] * 17 + [1] * 2 + [2])
    images = np.zeros((20, 4, 4, 1), dtype=np.uint8)
    stream = BatchStream(ArraySource("x", images, labels, ("a", "b", "c")), 6, 0, labels=True, balance="classes")
    for batch in islice(stream.since(0), 10):
        assert batch.label is not None
        assert sorted(batch.label.tolist()) == [0, 0, 1, 1, 2, 2]


def test_what_the_images_cannot_give() -> None:
    images = ArraySource("x", np.zeros((4, 4, 4, 1), dtype=np.uint8))
    with pytest.raises(UserError, match=r"--training\.balance classes needs labels"):
        BatchStream(images, 2, 0, balance="classes")
    with pytest.raises(UserError, match=r"leave --training\.crop out"):
        BatchStream(images, 2, 0, crop="random")


@pytest.mark.parametrize("workers", [0, 3])
def test_bad_images_are_told_in_the_readers_thread(tmp_path: Path, workers: int) -> None:
    images = folder_source(tmp_path, count=60)
    for name in ("a/09.png", "b/10.png"):
        (tmp_path / name).unlink()
    told: list[tuple[str, int]] = []
    stream = BatchStream(images, 20, 0, workers=workers, tell=lambda line: told.append((line, threading.get_ident())))
    list(islice(stream.since(0), 3))
    here = threading.get_ident()
    assert sorted(told) == [(f"skipped {n}: No such file or directory", here) for n in ("a/09.png", "b/10.png")]
    for k in range(12, 18):
        (tmp_path / "abc"[k % 3] / f"{k}.png").write_bytes(b"no picture")
    with pytest.raises(TooManyBadImages, match="of 60 images cannot be used"):
        list(islice(stream.since(0), 3))
    assert len(told) > 2, "what led to it was told before"
