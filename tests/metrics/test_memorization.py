"""Copies of training images are told from images that are merely alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import undye
from undye.cli.evaluate import table
from undye.config import ModelConfig
from undye.data.source import ArraySource
from undye.denoiser import Denoiser
from undye.metrics import memorization as module
from undye.metrics.memorization import Memorization, closest_pairs, memorization
from undye.metrics.record import measurements


def images(n: int, seed: int, size: int = 6) -> np.ndarray:
    """Blobs of random place and brightness: alike, never the same."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    at = rng.uniform(0, size, (n, 2, 1, 1))
    blob = np.exp(-((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2) / 4)
    return (rng.uniform(100, 255, (n, 1, 1)) * blob).astype(np.uint8)[..., None]


TRAIN = ArraySource("train", images(500, 0))


def test_unseen_images_of_the_same_kind_are_no_copies():
    result = memorization(images(400, 1), TRAIN, images(400, 2))
    assert abs(result.z) < 3
    assert result.near_copies < 0.05


def test_copies_are_found_also_with_a_little_noise():
    rng = np.random.default_rng(3)
    some = TRAIN.images(np.arange(0, 400, 2))
    noisy = np.clip(some + rng.integers(-1, 2, some.shape), 0, 255).astype(np.uint8)
    for samples in (some, noisy):
        result = memorization(samples, TRAIN, images(300, 2))
        assert result.z < -10
        assert result.near_copies > 0.9
        assert (result.nearest == np.arange(0, 400, 2)).mean() > 0.95
    assert memorization(some, TRAIN, images(300, 2)).samples.max() == 0


def test_a_few_copies_among_many():
    samples = np.concatenate([images(380, 1), TRAIN.images(np.arange(20))])
    result = memorization(samples, TRAIN, images(400, 2))
    assert 0.04 < result.near_copies < 0.12
    pairs = closest_pairs(result, samples, TRAIN, 4)
    assert pairs.shape == (8, 6, 6, 1)
    assert np.array_equal(pairs[0::2], pairs[1::2]), "each beside the very image that it copies"


def test_distances_are_those_of_the_definition(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 37)
    samples, unseen, ticks = images(15, 1), images(12, 2), []
    result = memorization(samples, TRAIN, unseen, lambda *args: ticks.append(args))
    train = TRAIN.images(np.arange(500)).astype(float)
    for queries, found in ((samples, result.samples), (unseen, result.held_out)):
        expected = np.sqrt(((queries[:, None].astype(float) - train) ** 2).mean((2, 3, 4))).min(1)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert ticks[-1] == (500, 500)


def test_z_is_mann_whitneys_with_ties():
    a, b = np.array([1.0, 2, 2, 5]), np.array([2.0, 3, 4, 5, 6])
    u = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    # n m / 12 ((N + 1) - sum(t^3 - t) / (N (N - 1))), with three 2s and two 5s among nine
    spread = np.sqrt(20 / 12 * (10 - (24 + 6) / 72))
    assert Memorization(a, b, np.zeros(4, int)).z == pytest.approx((u - 10) / spread)
    same = np.ones(20)
    assert Memorization(same, same, np.zeros(20, int)).z == 0


@pytest.mark.parametrize(
    ("samples", "unseen", "says"),
    [
        (images(20, 1, 5), images(20, 2), "samples are"),
        (images(20, 1), images(20, 2, 7), "held-out images are"),
        (images(9, 1), images(20, 2), "at least 10"),
        (images(20, 1), images(9, 2), "at least 10"),
    ],
)
def test_what_cannot_be_compared(samples, unseen, says):
    with pytest.raises(undye.UserError, match=says):
        memorization(samples, TRAIN, unseen)


class Parrot(nn.Module):
    """The optimum of training on these images alone: x_0 is one of them."""

    def __init__(self, known: np.ndarray):
        super().__init__()
        self.known = torch.from_numpy(known).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.schedule = undye.NoiseSchedule.named("linear", 1000)

    def forward(self, x, t, label=None):
        alpha_bar = self.schedule.alpha_bar[t.long() + 1].float().view(-1, 1, 1, 1, 1)
        error = (x[:, None] - alpha_bar.sqrt() * self.known).square().sum((2, 3, 4), keepdim=True)
        return ((-error / (2 * (1 - alpha_bar))).softmax(1) * self.known).sum(1)


def test_a_model_that_knows_nothing_but_its_images_is_found_out(tmp_path: Path):
    config = ModelConfig(image_size=(6, 6), channels=1, prediction="x_0")
    known = tmp_path / "known.npz"
    np.savez(known, images=images(60, 0))
    np.savez(tmp_path / "unseen.npz", images=images(60, 9))
    parrot = Denoiser(Parrot(images(60, 0)), config).eval()
    settings = {"metrics": "memorization", "n": 30, "held_out": tmp_path / "unseen.npz", "sample_steps": 20}
    report = undye.evaluate(parrot, known, **settings, pairs=tmp_path / "pairs.png")
    found = report["metrics"]["memorization"]
    assert found["z"] < -3
    assert found["near_copies"] > 0.9
    assert found["rms_of_255"]["samples"]["0.5"] < 1
    assert "copies its training images" in "\n".join(table(report))
    assert [row.value for row in measurements(report)] == [found["z"], found["near_copies"]]
    assert Image.open(tmp_path / "pairs.png").size[0] >= 12
    json.dumps(report)
    honest = undye.evaluate(replace_known(parrot), known, **settings)["metrics"]["memorization"]
    assert honest["z"] > -3
    with pytest.raises(undye.UserError, match="--held-out"):
        undye.evaluate(parrot, known, **{**settings, "held_out": None})


def replace_known(parrot: Denoiser) -> Denoiser:
    """One that draws images of the kind which it has not seen either."""
    return Denoiser(Parrot(images(60, 5)), replace(parrot.config)).eval()
