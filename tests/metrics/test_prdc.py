"""Precision, recall, density, coverage: definition, extremes, a dropped mode, ties."""

import numpy as np
import pytest

from undye.errors import UserError
from undye.metrics import prdc as module
from undye.metrics.prdc import prdc

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 4)), 1.3 * RNG.standard_normal((70, 4)) + 0.5


def by_loops(x: np.ndarray, y: np.ndarray, k_pr: int, k_dc: int) -> tuple[float, float, float, float]:
    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    r_x, r_y = [radius(x, i, k_pr) for i in range(len(x))], [radius(y, j, k_pr) for j in range(len(y))]
    r_dc = [radius(y, j, k_dc) for j in range(len(y))]
    d = np.array([[np.linalg.norm(a - b) for b in y] for a in x])
    return (
        np.mean([any(d[i, j] <= r_y[j] for j in range(len(y))) for i in range(len(x))]),
        np.mean([any(d[i, j] <= r_x[i] for i in range(len(x))) for j in range(len(y))]),
        sum(d[i, j] <= r_dc[j] for i in range(len(x)) for j in range(len(y))) / (k_dc * len(x)),
        np.mean([any(d[i, j] <= r_dc[j] for i in range(len(x))) for j in range(len(y))]),
    )


def four(result) -> tuple[float, float, float, float]:
    return result.precision, result.recall, result.density, result.coverage


@pytest.mark.parametrize("block", [1, 3, 13, 1024])
@pytest.mark.parametrize(("k_pr", "k_dc"), [(3, 5), (5, 2)])
def test_the_definition_in_blocks_of_any_size(monkeypatch, block, k_pr, k_dc):
    monkeypatch.setattr(module, "BLOCK", block)
    ticks = []
    found = four(prdc(X, Y, k_pr, k_dc, lambda *args: ticks.append(args)))
    assert found == pytest.approx(by_loops(X, Y, k_pr, k_dc), rel=1e-12)
    assert ticks[-1] == (60 + 2 * 70, 60 + 2 * 70)
    assert min(found) > 0, "the test must see something"
    assert max(found) != 1


def test_order_does_not_matter():
    expected = four(prdc(X, Y))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert four(prdc(rng.permutation(X), rng.permutation(Y))) == pytest.approx(expected, rel=1e-12)


def test_identical_sets_are_all_in_and_disjoint_sets_all_out():
    same = prdc(X, X)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    # of each image's k-th nearest ball its own centre, and on the edge the k-th neighbour: k + 1 of k
    assert same.density == pytest.approx(1 + 1 / 5)
    assert four(prdc(X, X + 1000)) == (0, 0, 0, 0)


def test_the_same_distribution_has_density_and_coverage_near_their_values_by_chance():
    rng = np.random.default_rng(3)
    found = prdc(rng.standard_normal((1000, 8)), rng.standard_normal((1000, 8)))
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.coverage == pytest.approx(1 - 0.5**5, abs=0.02), "Naeem et al. 2020, Eq. 10, for equal large sets"


def test_a_dropped_mode_costs_recall_and_coverage_not_precision():
    rng = np.random.default_rng(1)
    centres = 20 * np.eye(4)

    def draw(modes: int) -> np.ndarray:
        return centres[rng.integers(0, modes, 400)] + rng.standard_normal((400, 4))

    dropped, whole = prdc(draw(1), draw(4)), prdc(draw(4), draw(4))
    assert dropped.precision > 0.9
    assert dropped.recall < 0.3
    assert dropped.coverage < 0.3
    assert min(four(whole)) > 0.8


def test_an_outlier_inflates_precision_not_density():
    rng = np.random.default_rng(2)
    real = rng.standard_normal((300, 4))
    fake = rng.standard_normal((300, 4)) + 12
    outlier = np.concatenate([real, np.full((1, 4), 12.0)])
    assert prdc(fake, real).precision == 0
    assert prdc(fake, outlier).precision > 0.9
    assert prdc(fake, outlier).density < 0.3


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_images_that_repeat(offset):
    """Balls of radius 0 hold what is equal to their centre, wherever the features lie."""
    tiles = np.random.default_rng(5).standard_normal((12, 9)) + offset
    many = np.repeat(tiles, 8, 0)
    found = prdc(many, many)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(8 / 5)
    assert prdc(many + 0.01, many).precision == 0


def test_ties_on_the_edge_of_a_ball_are_in():
    line = np.arange(12.0)[:, None] * 0.1
    found = prdc(line + 0.3, line, k_pr=3, k_dc=3)
    assert found.precision == pytest.approx(1), "each sample lies at the distance of a third neighbour, to rounding"
    assert four(prdc(line * 10 + 3, line * 10, 3, 3)) == four(found), "whole numbers, without rounding"


def test_what_cannot_be_compared():
    with pytest.raises(UserError, match="more than 5 images on each side, got 5 and 70"):
        prdc(X[:5], Y)
    with pytest.raises(UserError, match="use one network"):
        prdc(X, Y[:, :3])
    with pytest.raises(UserError, match="at least 1"):
        prdc(X, Y, k_pr=0)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize(("k_pr", "shift"), [(3, 0.5), (1, 1.0), (5, 1.0)])
def test_what_each_sample_adds_is_what_is_lost_without_it(monkeypatch, block, k_pr, shift):
    monkeypatch.setattr(module, "BLOCK", block)
    y = Y + shift
    whole = prdc(X, y, k_pr=k_pr, k_dc=2)
    without = [prdc(np.delete(X, i, axis=0), y, k_pr=k_pr, k_dc=2) for i in range(len(X))]
    assert whole.recall_losses == pytest.approx(np.array([whole.recall - w.recall for w in without]), abs=1e-12)
    assert whole.coverage_losses == pytest.approx(np.array([whole.coverage - w.coverage for w in without]), abs=1e-12)
    assert whole.recall_losses.min() < 0 < whole.recall_losses.max(), "a sample may be in the way of its neighbours"
