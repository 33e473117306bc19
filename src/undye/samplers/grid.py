"""Which times a sampler visits."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from undye.errors import UserError


def uniform(num_steps: int, steps: int) -> Tensor:
    """Evenly spaced times from T to 0, rounded to integers. With steps = T, the full grid T, T-1, ..., 0."""
    return (torch.linspace(num_steps, 0, steps + 1, dtype=torch.float64)).round().long()


def quadratic(num_steps: int, steps: int) -> Tensor:
    """Square roots evenly spaced: dense near the data (DDIM's choice for CIFAR-10, Song et al. 2021, appendix D.2)."""
    times = (torch.linspace(num_steps**0.5, 0, steps + 1, dtype=torch.float64) ** 2).round().long()
    # where rounding made neighbours meet, the later times move up: the grid keeps its ends and its number of steps
    return torch.maximum(times, torch.arange(steps, -1, -1))


GRIDS: dict[str, Callable[[int, int], Tensor]] = {"uniform": uniform, "quadratic": quadratic}


def make_grid(name: str, num_steps: int, steps: int | None = None) -> Int64[Tensor, " n"]:
    """A grid of `steps` steps (None: all T of them) by name: steps + 1 integer times from T down to 0.

    Raises:
        UserError: for an unknown name, or a number of steps outside 1..T.
    """
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}: choose from {', '.join(GRIDS)}")
    steps = num_steps if steps is None else steps
    if not 1 <= steps <= num_steps:
        raise UserError(f"the number of steps must lie in 1..{num_steps} (the model's T), got {steps}")
    return GRIDS[name](num_steps, steps)
