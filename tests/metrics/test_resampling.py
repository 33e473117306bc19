"""Means and medians of one value per image: replicates of the definition, and alarms that are rarely false."""

import numpy as np
import pytest

from undye.metrics.bootstrap import resample_weights
from undye.metrics.copying import memorization_replicates
from undye.metrics.intervals import Replicates, difference
from undye.metrics.memorization import Memorization
from undye.metrics.numbers import DISTANCE, FARTHER, NEAR_COPIES
from undye.metrics.resampling import Resampling, mean_replicates, median_replicates

TRIES = 200


@pytest.mark.parametrize("n", [2, 7, 8, 63])
def test_they_are_those_of_the_sets_drawn_again(n):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 9, n) + rng.integers(0, 2) * 0.5
    w = resample_weights(n, 50, 3)
    for found, of in ((mean_replicates(x, w), np.mean), (median_replicates(x, w), np.median)):
        again = np.array([of(np.repeat(x, row)) for row in w])
        np.testing.assert_allclose(found.values - found.value, again - again.mean(), atol=1e-12)
        assert found.value == of(x)
        assert found.bias == pytest.approx(0, abs=1e-12)


def test_parts_of_a_set_are_drawn_independently():
    again = Resampling(50, seed=4, draw=2)
    assert np.array_equal(again.weights(30), resample_weights(30, 50, 4, 2))
    a, b = (again.weights(30, part=k).astype(float) - 1 for k in (1, 2))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    assert np.array_equal(again.weights(30, part=1), again.weights(30, part=1))


WEIGHTS = {(n, draw): resample_weights(n, 100, 0, draw) for n in (64, 200) for draw in (1, 2)}


def alarms(draw, replicates, n: int) -> float:
    """How often two sets of n values of one distribution are called different."""
    found = [[replicates(draw(), WEIGHTS[n, side]) for side in (1, 2)] for _ in range(TRIES)]
    return float(np.mean([difference(a, b).real for a, b in found]))


@pytest.mark.parametrize("kind", ["smooth", "few values"])
def test_medians_of_equals_are_rarely_called_different(kind):
    """About 5 %; with few values the bootstrap's own bias, taken out, would make it 20 %."""
    rng = np.random.default_rng(1)
    draw = (lambda: rng.lognormal(size=64)) if kind == "smooth" else (lambda: rng.integers(0, 12, 64).astype(float))
    assert 0.005 <= alarms(draw, median_replicates, 64) <= 0.09


def test_medians_that_differ_are_found():
    rng = np.random.default_rng(2)
    pairs = [(rng.lognormal(0, 0.5, 64), rng.lognormal(0.5, 0.5, 64)) for _ in range(40)]
    found = [difference(*(median_replicates(x, WEIGHTS[64, k]) for k, x in enumerate(p, 1))) for p in pairs]
    assert np.mean([d.real and d.value < 0 for d in found]) > 0.9


class Kept(Resampling):
    """Weights that are not drawn anew for each try."""

    def weights(self, n: int, part: int = 0) -> np.ndarray:
        return WEIGHTS[n, self.draw]


def result(rng: np.random.Generator, n: int, held_out: np.ndarray, copies: float = 0.0) -> Memorization:
    """Distances of n samples, of which some are copies."""
    far = rng.lognormal(size=n)
    return Memorization(np.where(rng.random(n) < copies, 0.0, far), held_out, np.zeros(n, int))


def of_copies(rng: np.random.Generator, held_out: np.ndarray, copies: float, draw: int) -> dict[str, Replicates]:
    return memorization_replicates(result(rng, 200, held_out, copies), Kept(100, 0, draw))


@pytest.mark.parametrize("copies", [0.0, 0.05])
def test_models_that_copy_alike_are_rarely_called_different(copies):
    rng = np.random.default_rng(3)
    held_out = rng.lognormal(size=200)
    found = [[of_copies(rng, held_out, copies, k) for k in (1, 2)] for _ in range(TRIES)]
    for number in (NEAR_COPIES, FARTHER, DISTANCE):
        assert np.mean([difference(a[number], b[number]).real for a, b in found]) <= 0.09, number


def test_a_model_that_copies_is_found_and_noise_has_no_merit():
    rng = np.random.default_rng(4)
    held_out = rng.lognormal(size=200)
    honest, parrot = (of_copies(rng, held_out, share, k) for k, share in ((1, 0.0), (2, 0.2)))
    assert difference(parrot[NEAR_COPIES], honest[NEAR_COPIES]).real
    assert difference(parrot[FARTHER], honest[FARTHER]).value < -0.05
    far = Memorization(np.full(200, 99.0), held_out, np.zeros(200, int))
    noise = memorization_replicates(far, Resampling(100, 0, 3))
    assert far.near_copies == 0
    assert noise[NEAR_COPIES].value == 0
    assert noise[FARTHER].value == 1
    chance = result(rng, 200, held_out)
    assert chance.near_copies > 0, "a few by chance"
    alike = memorization_replicates(chance, Resampling(100, 0, 4))
    assert not difference(alike[NEAR_COPIES], noise[NEAR_COPIES]).real
    assert difference(noise[FARTHER], alike[FARTHER]).real


def test_farther_than_unseen_is_mann_whitneys():
    a, b = np.array([1.0, 2, 2, 5]), np.array([2.0, 3, 4, 5, 6])
    found = Memorization(a, b, np.zeros(4, int))
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert found.farther_than_unseen == pytest.approx(expected)
    assert (found.farther_than_unseen - 0.5) * found.z > 0
