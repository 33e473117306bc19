"""Which times a sampler visits.

A grid is made for a schedule and a number of steps: it falls strictly from T to 0. Networks are trained on the whole
numbers 1..T, so times are rounded to them unless real ones are asked for; where neighbours would meet they move apart,
so that a grid never has fewer steps than were asked for.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64, Real
from torch import Tensor

from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.score import log_alpha_bar_at_sigma, sigma_at
from undye.errors import UserError

SIGMA_MAX = 80.0
"""Where grids made from the noise level begin: above, x is noise (Karras et al. 2022, Table 1). Their first step is
from T, which may be noisier, and the next one is where the second of the grid from 80 is."""


def uniform(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced times from T to 0, as DDIM's linear ones. Elsewhere this is called trailing (Lin et al. 2024)."""
    return _unit(steps) * schedule.num_steps


def quadratic(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Square roots evenly spaced: dense near the data (DDIM's choice for CIFAR-10, Song et al. 2021, appendix D.2)."""
    return _unit(steps) ** 2 * schedule.num_steps


def cosine(schedule: NoiseSchedule, steps: int) -> Tensor:
    """T (1 - cos) / 2 of even angles: dense at both ends, where solutions bend most."""
    return (1 - torch.cos(_unit(steps) * torch.pi)) / 2 * schedule.num_steps


def leading(schedule: NoiseSchedule, steps: int) -> Tensor:
    """The times 1, 1 + k, 1 + 2k, ... with k = T // steps, as DDIM's and most others' code.

    There the largest of them is the first, some way below T, and takes x_T for its own (Lin et al. 2024, section 3.3:
    a flaw). Here T takes its place, so that the first step is a longer one.
    """
    k = schedule.num_steps // steps
    times = 1 + k * torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    times[0] = schedule.num_steps
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def log_snr(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Even in log-SNR between sigma = 80 (or T) and t = 1, then to 0: Lu et al. 2022, DPM-Solver, section 3.3."""
    high, low = _sigma_range(schedule)
    return _from_sigma(schedule, (_unit(steps - 1) * (high / low).log() + low.log()).exp() if steps > 1 else None)


def karras(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Even in sigma^(1/7) between sigma = 80 (or T) and t = 1, then to 0: Karras et al. 2022, Eq. 5."""
    high, low = (sigma ** (1 / 7) for sigma in _sigma_range(schedule))
    return _from_sigma(schedule, (low + _unit(steps - 1) * (high - low)) ** 7 if steps > 1 else None)


GRIDS: dict[str, Callable[[NoiseSchedule, int], Tensor]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "cosine": cosine,
    "log-snr": log_snr,
    "karras": karras,
    "trailing": uniform,
    "leading": leading,
}
"""Real times by name: (schedule, steps) -> float64 (steps + 1,), falling strictly from T to 0."""

BY_NUMBER = ("uniform", "quadratic", "cosine", "trailing", "leading")
"""The grids for which T says all of a schedule."""


def make_grid(
    name: str, schedule: NoiseSchedule | int, steps: int | None = None, *, real: bool = False
) -> Real[Tensor, " n"]:
    """A grid of `steps` steps (None: all T of them) by name: steps + 1 times from T down to 0.

    Args:
        name: a key of `GRIDS`.
        schedule: the model's, or its T where the grid needs no more than that.
        steps: 1..T.
        real: leave the times (float64) as they come; else they are rounded to whole numbers (int64).

    Raises:
        UserError: for an unknown name, or a number of steps outside 1..T.
    """
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}: choose from {', '.join(GRIDS)}")
    if isinstance(schedule, int):
        if name not in BY_NUMBER:
            raise UserError(f"the grid {name} needs the model's schedule: choose from {', '.join(BY_NUMBER)}")
        num_steps = schedule
        # any schedule of that length does
        schedule = NoiseSchedule(-torch.arange(num_steps + 1, dtype=torch.float64))
    num_steps = schedule.num_steps
    steps = num_steps if steps is None else steps
    if not 1 <= steps <= num_steps:
        raise UserError(f"the number of steps must lie in 1..{num_steps} (the model's T), got {steps}")
    times = GRIDS[name](schedule, steps)
    return times if real else to_whole(times, num_steps)


def to_whole(times: Float64[Tensor, " n"], num_steps: int) -> Real[Tensor, " n"]:
    """Times rounded to whole numbers that still fall strictly from T to 0: where they would meet they move apart."""
    steps = len(times) - 1
    place = torch.arange(steps + 1)
    # t_i + i must not grow on the way down: raise each to what comes after it; then keep room below T
    raised = (times.round().long() + place).flip(0).cummax(0).values.flip(0) - place
    return torch.minimum(raised, num_steps - place)


def _unit(steps: int) -> Tensor:
    """From 1 to 0 evenly."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _sigma_range(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    sigma = sigma_at(schedule.log_alpha_bar[[-1, 1]])
    return sigma[0].clamp(max=max(SIGMA_MAX, 2 * sigma[1].item())), sigma[1]


def _from_sigma(schedule: NoiseSchedule, sigma: Tensor | None) -> Tensor:
    """The times of these noise levels, the first of them T instead, and then 0."""
    ends = torch.tensor([schedule.num_steps, 0], dtype=torch.float64)
    if sigma is None:
        return ends
    levels = log_alpha_bar_at_sigma(sigma[1:]).clamp(min=schedule.log_alpha_bar[-1].item())
    return torch.cat([ends[:1], schedule.time_at(levels), ends[1:]])
