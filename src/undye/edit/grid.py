"""The times of an edit, which begins part of the way down."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Real
from torch import Tensor

from undye.errors import UserError

DEFAULT_STEPS = 50
"""Steps from T, where none are asked for; an edit that begins at t takes its share of them, but at least 10."""


def times_from(
    start: float, num_steps: int, steps: int | None = None, times: Sequence[float] | None = None
) -> Real[Tensor, " n"]:
    """`steps` steps from the time `start` down to 0, evenly spaced; all but a real start are whole numbers.

    Args:
        start: in (0, T].
        num_steps: T.
        steps: None: 50 for the whole way from T, in proportion for less of it, but at least 10 where there are as many.
        times: in place of steps: the times themselves, from `start` to 0.

    Raises:
        UserError: if there are not so many whole times on the way; for times that do not fall from there to 0.
    """
    if times is not None:
        return _own_times(start, num_steps, steps, times)
    most = math.ceil(start)
    if steps is None:
        steps = min(max(10, round(DEFAULT_STEPS * start / num_steps)), most)
    if not 1 <= steps <= most:
        raise UserError(f"from t = {start:g} the number of steps must lie in 1..{most}, got {steps}")
    grid = torch.linspace(start, 0, steps + 1, dtype=torch.float64).round()
    # a real start may have rounded onto the time below it, or its whole steps onto one another
    grid[0] = start
    for i in range(1, steps):
        grid[i] = max(min(float(grid[i]), math.ceil(float(grid[i - 1])) - 1), steps - i)
    return grid.long() if float(start).is_integer() else grid


def _own_times(start: float, num_steps: int, steps: int | None, times: Sequence[float]) -> Real[Tensor, " n"]:
    """Times that the user gives."""
    if steps is not None:
        raise UserError("times are given in place of steps: leave the steps out")
    given = [float(t) for t in times]
    # a NaN is neither above nor below anything
    falls = len(given) >= 2 and all(t > s for t, s in pairwise(given))
    if not falls or given[0] != start or given[-1] != 0 or not 0 < given[0] <= num_steps:
        raise UserError(
            f"the times of an edit fall strictly from where it starts to 0, at most from T = {num_steps}: these are "
            f"{len(given)} times that do not"
        )
    grid = torch.tensor(given, dtype=torch.float64)
    return grid.long() if all(t.is_integer() for t in given) else grid
