"""Power-function averages in theory: their weights, their length, and what others can be made of."""

import numpy as np
import pytest

from undye.training.profile import LONGEST, REACHABLE, fit, gamma_of, reachable, share_of_step, std_of, step_weights

STDS = [0.005, 0.03, 0.05, 0.1, 0.15, 0.25, LONGEST]


@pytest.mark.parametrize("std", STDS)
def test_the_length_is_the_standard_deviation_of_the_density(std: float) -> None:
    gamma = gamma_of(std)
    assert gamma >= -1e-9
    assert std_of(gamma) == pytest.approx(std, rel=1e-9)
    # the density (gamma + 1) tau^gamma on [0, 1] by Gauss-Legendre quadrature, exact enough for any gamma here
    x, w = np.polynomial.legendre.leggauss(400)
    tau, w = (x + 1) / 2, w / 2
    density = (gamma + 1) * tau**gamma
    mean = w @ (density * tau)
    assert w @ density == pytest.approx(1, rel=1e-9)
    assert np.sqrt(w @ (density * (tau - mean) ** 2)) == pytest.approx(std, rel=1e-6)


def test_lengths_of_the_paper() -> None:
    """Karras et al. 2024, section 3.1: std 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.29, float("nan")])
def test_there_are_no_other_lengths(std: float) -> None:
    with pytest.raises(ValueError, match="std must lie in"):
        gamma_of(std)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("step", [1, 2, 137])
def test_the_weights_of_steps(std: float, step: int) -> None:
    weights = step_weights(std, step)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    # by the recursion
    recursed = np.zeros(step)
    for k in range(1, step + 1):
        share = share_of_step(std, k)
        recursed *= 1 - share
        recursed[k - 1] = share
    np.testing.assert_allclose(recursed, weights, rtol=1e-9, atol=1e-15)
    # by integration of the density over each step
    x, w = np.polynomial.legendre.leggauss(40)
    tau = (np.arange(step)[:, None] + (x + 1) / 2) / step
    gamma = gamma_of(std)
    np.testing.assert_allclose((gamma + 1) * tau**gamma @ (w / 2) / step, weights, rtol=1e-4, atol=1e-12)


def test_a_late_step_counts_for_its_small_share() -> None:
    """At t = 10^9 the share is below the rounding of 1 - beta computed plainly."""
    assert share_of_step(0.05, 10**9) == pytest.approx((gamma_of(0.05) + 1) * 1e-9, rel=1e-7)


def stored(every: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and lengths of the snapshots of two averages."""
    return np.repeat(np.arange(every, total + 1, every), 2), np.tile([0.05, 0.1], total // every)


@pytest.mark.parametrize("std", [0.05, 0.1])
def test_what_was_stored_is_made_of_itself(std: float) -> None:
    steps, stds = stored(100, 2000)
    x, error = fit(steps, stds, 2000, [std])
    np.testing.assert_allclose(x[:, 0], (steps == 2000) & (stds == std), atol=1e-5)
    assert error[0] < 1e-6


def test_the_fit_is_the_least_squares_solution() -> None:
    """Against a solver for matrices, on the shares of weight at 20,000 times."""
    steps, stds = stored(100, 1000)
    tau = (np.arange(20_000) + 0.5) / 20_000
    wanted = np.array([0.03, 0.08, 0.2])

    def shares(at: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.minimum(tau[:, None] / at, 1) ** np.array([gamma_of(s) + 1 for s in lengths])

    have, want = shares(steps / 1000, stds), shares(np.ones(3), wanted)
    # coefficients that sum to 1: the last one is what the others leave
    free = np.linalg.lstsq(have[:, :-1] - have[:, -1:], want - have[:, -1:], rcond=None)[0]
    expected = np.concatenate([free, 1 - free.sum(0, keepdims=True)])
    x, errors = fit(steps, stds, 1000, wanted)
    np.testing.assert_allclose(x.sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-3)
    difference = np.sqrt(np.mean((have @ x - want) ** 2, axis=0) / np.mean(want**2, axis=0))
    np.testing.assert_allclose(errors, difference, rtol=1e-3)


def trajectories(total: int, n: int, jitter: float = 0.0) -> np.ndarray:
    """(total, n) weights that walk at random."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(total, n)), 0) + jitter * rng.normal(size=(total, n))


def tracked(theta: np.ndarray, steps: np.ndarray, stds: np.ndarray) -> np.ndarray:
    """The averages as they were after these steps."""
    return np.stack([step_weights(s, k) @ theta[:k] for k, s in zip(steps.tolist(), stds.tolist(), strict=True)])


@pytest.mark.parametrize("std", [0.025, 0.07, 0.2])
def test_the_error_is_that_of_weights_that_walk(std: float) -> None:
    total = 1000
    theta = trajectories(total, 2000)
    steps, stds = stored(100, total)
    x, error = fit(steps, stds, total, [std])
    averages = tracked(theta, steps, stds)
    direct = step_weights(std, total) @ theta
    found = np.sqrt(np.mean((x[:, 0] @ averages - direct) ** 2) / np.mean((direct - theta[-1]) ** 2))
    assert found == pytest.approx(error[0], rel=0.1)


@pytest.mark.parametrize("every", [50, 100])
@pytest.mark.parametrize("std", [0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25])
def test_other_lengths_come_out_as_if_they_had_been_tracked(std: float, every: int) -> None:
    """To 1e-3 of the weights' size, with noise, a walk and a drift all as large as the weights themselves, float32."""
    total, n = 2000, 500
    rng = np.random.default_rng(1)
    drift = np.linspace(1, 0, total)[:, None] ** 2 * rng.normal(size=(1, n))
    theta = rng.normal(size=(1, n)) + drift + trajectories(total, n, jitter=5.0) / np.sqrt(total)
    steps, stds = stored(every, total)
    averages = tracked(theta, steps, stds)
    x, error = fit(steps, stds, total, [std])
    assert error[0] <= REACHABLE
    direct = step_weights(std, total) @ theta
    made = x[:, 0] @ averages.astype(np.float32).astype(np.float64)
    assert np.linalg.norm(made - direct) < 1e-3 * np.linalg.norm(direct)


def test_what_can_be_made() -> None:
    (few,), (many,) = (reachable(*stored(every, 1000), 1000) for every in (100, 20))
    assert many[0] < few[0] <= 0.05
    assert few[1] >= 0.1
    errors = fit(*stored(100, 1000), 1000, [few[0], few[0] - 0.001])[1]
    assert errors[0] <= REACHABLE < errors[1]
    assert reachable([1000], [0.05], 1000) == [(0.05, 0.05)], "one snapshot of one average is only itself"


def test_many_snapshots_leave_small_coefficients() -> None:
    """800 nearly equal averages: without a ridge the coefficients would be noise of any size."""
    x, errors = fit(*stored(100, 40_000), 40_000, [0.03, 0.07, 0.2])
    assert errors.max() < 1e-4
    assert np.abs(x).sum(0).max() < 20
