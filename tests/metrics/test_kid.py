"""The kernel distance: its definition, its mean of 0, its standard error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undye.errors import UserError
from undye.metrics import kid as module
from undye.metrics.fidelity import kernel_distance
from undye.metrics.kid import kid, kid_subsets

X, Y = (np.random.default_rng(i).standard_normal((n, 6)) + 0.2 * i for i, n in ((0, 45), (1, 38)))


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair."""
    n, m = len(x), len(y)

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [1, 7, 38, 1024])
def test_the_definition_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    ticks = []
    assert kid(X, Y, lambda *args: ticks.append(args)).value == pytest.approx(by_loops(X, Y), rel=1e-10)
    assert ticks[-1] == (2 * 45 + 38, 2 * 45 + 38)
    assert kernel_distance(X[:38], Y) == pytest.approx(by_loops(X[:38], Y), rel=1e-10)


@given(st.integers(0, 2**32 - 1))
def test_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    assert kid(rng.permutation(X), rng.permutation(Y)).value == pytest.approx(kid(X, Y).value, rel=1e-9)


def test_unbiased_two_halves_of_one_set_are_0_on_average_at_any_size():
    rng = np.random.default_rng(0)
    population = rng.standard_normal((400, 6)) ** 2
    for n in (10, 60):
        found = []
        for _ in range(200):
            order = rng.permutation(400)
            found.append(kid(population[order[:n]], population[order[n : 2 * n]]).value)
        error = np.std(found) / np.sqrt(200)
        assert abs(np.mean(found)) < 3 * error
        assert np.min(found) < 0, "an estimate that is 0 on average is below it at times"
    whole = np.mean(
        [kernel_distance(population[p[:10]], population[p[10:20]] + 1) for p in map(rng.permutation, [400] * 1000)]
    )
    assert whole == pytest.approx(kernel_distance(population, population + 1), rel=0.1), "small sets, the same mean"


def test_the_standard_error_is_the_spread_over_samples():
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((300, 6))
    for shift in (0.0, 0.3):  # alike, where only the second order is left, and not
        found = [kid(rng.standard_normal((60, 6)) + shift, reference) for _ in range(150)]
        values, errors = np.array([k.value for k in found]), np.array([k.standard_error for k in found])
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.25)


def test_subsets():
    found = kid_subsets(X, Y, subset_size=20, subsets=50, seed=3)
    assert found == kid_subsets(X, Y, subset_size=20, subsets=50, seed=3)
    assert found.value != kid_subsets(X, Y, subset_size=20, subsets=50, seed=4).value
    assert found.value == pytest.approx(kid(X, Y).value, abs=4 * found.std / np.sqrt(50))
    assert kid_subsets(X[:38], Y, subset_size=38, subsets=2).value == pytest.approx(by_loops(X[:38], Y))
    assert kid_subsets(X[:38], Y, subset_size=38, subsets=2).std == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_compared():
    with pytest.raises(UserError, match="subsets of 39 images cannot be drawn of 38"):
        kid_subsets(X, Y, subset_size=39)
    with pytest.raises(UserError, match="at least 2 images"):
        kid(X[:1], Y)
    with pytest.raises(UserError, match="use one network"):
        kid(X, Y[:, :4])
    with pytest.raises(UserError, match="NaN"):
        kid(X * np.nan, Y)
