"""The ODE solver against paths known in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from undye.diffusion.ode import solve


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def decay(u, state):
    """d x / du = -x, whose path is exp(-u)."""
    return (-state[0],)


def logistic(u, state):
    """d x / du = u x (1 - x): not linear, and u enters by itself; the odds grow by exp(u^2 / 2)."""
    return (u * state[0] * (1 - state[0]),)


def logistic_path(x, start, end):
    odds = x / (1 - x) * math.exp((end**2 - start**2) / 2)
    return odds / (1 + odds)


@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (3.0, 0.0), (-2.0, 1.5), (1.5, -2.0)])
def test_known_paths_forward_and_backward(start, end):
    x = float64(0.1, 0.5, 0.9)
    got = solve(logistic, (x,), start, end, tolerance=1e-9).state[0]
    torch.testing.assert_close(got, logistic_path(x, start, end), rtol=0, atol=1e-8)
    got = solve(decay, (x,), start, end, tolerance=1e-9).state[0]
    torch.testing.assert_close(got, x * math.exp(start - end), rtol=1e-7, atol=0)


def test_there_and_back_is_where_it_started():
    x = torch.rand(4, 2, 3, dtype=torch.float64)
    there = solve(logistic, (x,), 0.0, 2.0, tolerance=1e-10).state
    (back,) = solve(logistic, there, 2.0, 0.0, tolerance=1e-10).state
    assert (there[0] - x).abs().max() > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)


def runs(tolerances):
    """(tolerance, error, steps) of a rotation, whose error neither dies out nor grows."""
    x = float64(1.0, 0.0).view(1, 2)
    out = []
    for tolerance in tolerances:
        solution = solve(
            lambda u, s: (torch.stack([-s[0][:, 1], s[0][:, 0]], 1),), (x,), 0.0, 10.0, tolerance, first_step=0.05
        )
        error = (solution.state[0] - float64(math.cos(10.0), math.sin(10.0))).norm().item()
        out.append((tolerance, error, solution.accepted))
    return out


def test_the_error_falls_with_the_tolerance():
    taken = runs([1e-3, 1e-5, 1e-7, 1e-9])
    for (_, coarse, fewer), (_, fine, more) in pairwise(taken):
        assert fine < coarse / 20, taken
        assert more > fewer
    assert all(error < 20 * tolerance for tolerance, error, _ in taken), taken


def test_the_order_is_5():
    """Dormand and Prince 1980: the error falls with the fifth power of the number of steps."""
    (_, coarse, fewer), (_, fine, more) = runs([1e-6, 1e-10])
    assert abs(math.log(coarse / fine) / math.log(more / fewer) - 5) < 0.3


def test_polynomials_of_degree_5_are_exact():
    """Order 5, whatever the length of the steps; degree 6 is not."""
    for degree, exact in ((5, True), (6, False)):
        solution = solve(
            lambda u, s, k=degree: (torch.full_like(s[0], k * u ** (k - 1)),), (float64(0.0),), 0.0, 1.0, 1e9, 1.0
        )
        assert solution.accepted == 1
        assert (abs(solution.state[0].item() - 1) < 1e-13) == exact


def test_several_tensors_of_different_shapes_are_one_state():
    """A path and the integral along it, as for a log-density: d (x, l) / du = (-x, sum of x)."""
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)

    def derivative(u, state):
        return -state[0], state[0].flatten(1).sum(1)

    end, integral = solve(derivative, (x, torch.zeros(3, dtype=torch.float64)), 0.0, 2.0, tolerance=1e-9).state
    torch.testing.assert_close(end, x * math.exp(-2), rtol=1e-7, atol=0)
    torch.testing.assert_close(integral, x.flatten(1).sum(1) * (1 - math.exp(-2)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_worst_path_sets_the_steps(shape):
    """A hard path among a hundred easy ones is as exact as alone: errors are not averaged over paths."""
    rates = float64(40.0, *([0.0] * 100)).view(-1, *([1] * len(shape)))

    def solution(n):
        x = torch.ones(n, *shape, dtype=torch.float64)
        return solve(lambda u, s: (-rates[:n] * s[0],), (x,), 0.0, 1.0, tolerance=1e-6)

    alone, together = solution(1), solution(101)
    assert (together.accepted, together.rejected) == (alone.accepted, alone.rejected)
    assert torch.equal(together.state[0][0], alone.state[0][0])
    assert torch.equal(together.state[0][1:], torch.ones(100, *shape, dtype=torch.float64))


@pytest.mark.parametrize("first_step", [None, 1e-4, 0.3, 10.0])
def test_six_calls_for_each_step_and_one_to_start(first_step):
    """First same as last: an accepted step's last slope is the next one's first, a rejected step keeps its first."""
    seen, steps = [], []

    def derivative(u, state):
        seen.append(u)
        return (-50 * (state[0] - math.cos(u)),)

    solution = solve(derivative, (float64(3.0),), 0.0, 2.0, 1e-5, first_step, on_step=steps.append)
    assert solution.calls == len(seen) == 1 + 6 * (solution.accepted + solution.rejected)
    assert len(steps) == solution.accepted
    assert all(a < b for a, b in pairwise(steps))
    assert steps[-1] == 2.0, "exactly, not to rounding"
    assert min(seen) >= 0
    assert max(seen) <= 2 + 1e-12
    if first_step == 10.0:
        assert solution.rejected > 0, "a first step that is too long is taken back"


def test_steps_are_reported_backward_too():
    steps = []
    solve(decay, (float64(1.0),), 1.0, -1.0, on_step=steps.append)
    assert steps[-1] == -1.0
    assert all(a > b for a, b in pairwise(steps))


def test_a_way_of_no_length_is_no_step():
    x = float64(1.0, 2.0)
    solution = solve(decay, (x,), 0.5, 0.5)
    assert torch.equal(solution.state[0], x)
    assert (solution.accepted, solution.rejected) == (0, 0)


def test_the_state_given_is_left_alone():
    x = float64(1.0, 2.0)
    solve(decay, (x,), 0.0, 1.0)
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("where", [-1.0, 0.5])
def test_a_derivative_that_is_not_finite_is_an_error(wrong, where):
    """From the start, or from halfway on; and also where only one of many paths is."""

    def derivative(u, state):
        slope = -state[0]
        slope[1] = torch.where(torch.tensor(u > where), wrong, slope[1])
        return (slope,)

    with pytest.raises(ArithmeticError, match="not finite"):
        solve(derivative, (torch.ones(3, 2, dtype=torch.float64),), 0.0, 1.0)


def test_a_path_that_explodes_is_an_error():
    """d x / du = x^2 from 1 is 1 / (1 - u): it does not reach u = 2."""
    with pytest.raises(ArithmeticError):
        solve(lambda u, s: (s[0].square(),), (float64(1.0),), 0.0, 2.0, max_steps=500)


def test_a_step_too_far_into_the_infinite_is_taken_back():
    """Beyond 1 the derivative is not a number: a long first step sees that, shorter ones need not."""

    def derivative(u, state):
        return (state[0] / (1.001 - u) ** 0.5 if u < 1.001 else state[0] * math.nan,)

    solution = solve(derivative, (float64(1.0),), 0.0, 1.0, tolerance=1e-8, first_step=0.9)
    exact = math.exp(2 * (1.001**0.5 - 0.001**0.5))
    assert solution.state[0].item() == pytest.approx(exact, rel=1e-6)


def test_too_many_steps_are_an_error():
    def fast(u, state):
        return (torch.cos(float64(1000 * u)) * state[0],)

    with pytest.raises(ArithmeticError, match="more than 20 steps"):
        solve(fast, (float64(1.0),), 0.0, 1.0, tolerance=1e-6, max_steps=20)
    enough = solve(fast, (float64(1.0),), 0.0, 1.0, tolerance=1e-6)
    just = solve(fast, (float64(1.0),), 0.0, 1.0, 1e-6, max_steps=enough.accepted + enough.rejected)
    assert just.calls == enough.calls
