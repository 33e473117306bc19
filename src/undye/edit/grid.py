"""The times of an edit, which begins part of the way down."""

import math

import torch
from jaxtyping import Real
from torch import Tensor

from undye.errors import UserError

DEFAULT_STEPS = 50
"""Steps from T, where none are asked for; an edit that begins at t takes its share of them, but at least 10."""


def times_from(start: float, num_steps: int, steps: int | None = None) -> Real[Tensor, " n"]:
    """`steps` steps from the time `start` down to 0, evenly spaced; all but a real start are whole numbers.

    Args:
        start: in (0, T].
        num_steps: T.
        steps: None: 50 for the whole way from T, in proportion for less of it, but at least 10 where there are as many.

    Raises:
        UserError: if there are not so many whole times on the way.
    """
    most = math.ceil(start)
    if steps is None:
        steps = min(max(10, round(DEFAULT_STEPS * start / num_steps)), most)
    if not 1 <= steps <= most:
        raise UserError(f"from t = {start:g} the number of steps must lie in 1..{most}, got {steps}")
    times = torch.linspace(start, 0, steps + 1, dtype=torch.float64).round()
    # a real start may have rounded onto the time below it, or its whole steps onto one another
    times[0] = start
    for i in range(1, steps):
        times[i] = max(min(float(times[i]), math.ceil(float(times[i - 1])) - 1), steps - i)
    return times.long() if float(start).is_integer() else times
