"""An adaptive Runge-Kutta solver for ODEs of tensors, of order 5: Dormand and Prince 1980."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Hairer, Norsett and Wanner 1993, Table 5.2
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FIFTH = (*_A[6], 0.0)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(a - b for a, b in zip(_FIFTH, _FOURTH, strict=True))

State = tuple[Tensor, ...]
Derivative = Callable[[float, State], State]


@dataclass(frozen=True)
class Solution:
    """Where the path ends, and what it took: calls of the derivative, steps taken and steps thrown away."""

    state: State
    calls: int
    accepted: int
    rejected: int


def solve(
    derivative: Derivative,
    state: State,
    start: float,
    end: float,
    tolerance: float = 1e-5,
    first_step: float | None = None,
    max_steps: int = 10_000,
    on_step: Callable[[float], None] | None = None,
) -> Solution:
    """Follow d state / du = derivative(u, state) from `start` to `end`, which may lie on either side.

    Every tensor of the state has one row per path (B, ...). A step is accepted where the worst path's estimated error,
    root mean square over its numbers and relative to 1 + their size, is below `tolerance`.

    Args:
        derivative: the right-hand side; returns a tuple like the state.
        state: where the paths start.
        start: first value of u.
        end: last value of u.
        tolerance: absolute and relative error allowed for a step.
        first_step: length of the first step; None: a hundredth of the way.
        max_steps: give up after so many.
        on_step: called with u after each accepted step.

    Raises:
        ArithmeticError: if the state stops being finite, or `max_steps` do not suffice.
    """
    direction = 1.0 if end > start else -1.0
    length = first_step or abs(end - start) / 100
    u, accepted, rejected = start, 0, 0
    first = derivative(u, state)
    calls = 1
    while direction * (end - u) > 0:
        if accepted + rejected >= max_steps:
            raise ArithmeticError(f"the ODE solver needs more than {max_steps} steps: ask for a larger tolerance")
        last = length >= abs(end - u) * (1 - 1e-12)
        h = end - u if last else direction * length
        slopes = [first]
        for c, row in zip(_C[1:], _A[1:], strict=True):
            slopes.append(derivative(u + c * h, _add(state, h, row, slopes)))
        calls += 6
        new = _add(state, h, _FIFTH[:6], slopes[:6])
        error = _worst(_add(tuple(torch.zeros_like(x) for x in state), h, _ERROR, slopes), state, new, tolerance)
        if not error < float("inf"):
            if abs(h) < 1e-10 * abs(end - start):
                raise ArithmeticError("the ODE's state is not finite: the network diverged")
            rejected += 1
            length = abs(h) / 10
            continue
        if error <= 1:
            u = end if last else u + h
            state, first = new, slopes[6]  # the last slope is the next step's first
            accepted += 1
            if on_step is not None:
                on_step(u)
        else:
            rejected += 1
        length = abs(h) * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
    return Solution(state, calls, accepted, rejected)


def solve_each(
    derivative: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    end: Tensor,
    tolerance: float = 1e-4,
    length: Tensor | None = None,
    max_steps: int = 10_000,
) -> tuple[Tensor, Tensor, int]:
    """Follow dx/du = derivative(u, x) for each path (row) of x by itself: what a path does is its own affair.

    The paths have their own u and step lengths, so that where one ends does not depend on which others are in the
    batch, as it would with `solve`. The derivative is asked for all rows until the last one is there: those that wait
    stand at their end.

    Args:
        derivative: the right-hand side, of u (B,), float64 on the CPU, and x (B, ...).
        x: where the paths start (B, ...).
        start: their first u (B,), float64 on the CPU.
        end: their last (B,), all on the same side of `start`.
        tolerance: as in `solve`.
        length: of each path's first step (B,); None: a twentieth of the way.
        max_steps: give up after so many.

    Returns:
        The ends; the length that each path would try next (B,); and how often the derivative was called.

    Raises:
        ArithmeticError: as `solve`.
    """
    direction = 1.0 if bool((end > start).all()) else -1.0
    span, u = (end - start).abs(), start
    length = span / 20 if length is None else length
    first, calls = derivative(u, x), 1

    def wide(rows: Tensor) -> Tensor:
        return rows.to(x.device, torch.bool if rows.dtype == torch.bool else x.dtype).view(-1, *[1] * (x.ndim - 1))

    for _ in range(max_steps):
        left = (end - u).abs()
        going, last = left > 0, length >= left * (1 - 1e-12)
        h = torch.where(last, end - u, direction * length)
        slopes = [first]
        for c, row in zip(_C[1:], _A[1:], strict=True):
            slopes.append(derivative(u + c * h, x + wide(h) * _weighted(row, slopes)))
        calls += 6
        new = x + wide(h) * _weighted(_FIFTH[:6], slopes[:6])
        allowed = tolerance * (1 + torch.maximum(x.abs(), new.abs()))
        error = (wide(h) * _weighted(_ERROR, slopes) / allowed).flatten(1).square().mean(1).sqrt().double().cpu()
        finite = error.isfinite()
        if bool((going & ~finite & (h.abs() < 1e-10 * span)).any()):
            raise ArithmeticError("the ODE's state is not finite: the network diverged")
        good = going & finite & (error <= 1)
        u = torch.where(good, torch.where(last, end, u + h), u)
        x, first = torch.where(wide(good), new, x), torch.where(wide(good), slopes[6], first)
        factor = torch.where(finite, (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0), 0.1)
        # a step that was cut to the end says little of the length that was meant
        length = torch.where(going & ~(last & good), h.abs() * factor, length)
        if bool((u == end).all()):
            return x, length, calls
    raise ArithmeticError(f"the ODE solver needs more than {max_steps} steps: ask for a larger tolerance")


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The weighted sum of slopes."""
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * slope
    return total


def _add(state: State, h: float, weights: tuple[float, ...], slopes: list[State]) -> State:
    """State + h times the weighted sum of the slopes."""
    out = list(state)
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            out = [x + (h * weight) * d for x, d in zip(out, slope, strict=True)]
    return tuple(out)


def _worst(error: State, old: State, new: State, tolerance: float) -> float:
    """The largest error of any path, in units of what is allowed."""
    worst = 0.0
    for e, a, b in zip(error, old, new, strict=True):
        relative = e / (tolerance * (1 + torch.maximum(a.abs(), b.abs())))
        size = relative.flatten(1).square().mean(1).sqrt().max().item() if e.ndim > 1 else relative.abs().max().item()
        worst = max(worst, size) if size == size else float("inf")
    return worst
