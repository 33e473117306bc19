"""DPM-Solver++, multistep: Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling"."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import expm1
from typing import ClassVar

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.process import times
from undye.samplers.base import DenoiserLike, Levels, Noise, Sampler, Step, pairs
from undye.samplers.multistep import Seen, first_order, orders, slopes


@dataclass(frozen=True)
class DPM2M(Sampler):
    """DPM-Solver++(2M), Algorithm 2: a line through the last two predictions of x_0, for one network call a step.

    The first step and the last one are DDIM's.
    """

    name: ClassVar[str] = "dpm++2m"
    default_steps: ClassVar[int | None] = 20
    order: ClassVar[int] = 2

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        walk = pairs(grid, denoiser.schedule)
        x, seen, at = x_T, list[Seen](), Levels.of(denoiser.schedule, grid)
        for index, ((t, s), order) in enumerate(zip(walk, orders(self.order, len(walk)), strict=True)):
            _, x_0 = self.predict_x_0(denoiser, x, times(t, x))
            seen = [*seen[-2:], Seen(at.lam[index], x_0)]
            h = at.lam[index + 1] - at.lam[index]
            x = first_order(x, x_0, at.signal[index + 1], at.noise[index], at.noise[index + 1], h)
            if order > 1:
                x = x + at.signal[index + 1] * curvature(h, seen, order)
            yield Step(index, t, s, x, x_0)


@dataclass(frozen=True)
class DPM3M(DPM2M):
    """DPM-Solver++(3M): a parabola through the last three predictions."""

    name: ClassVar[str] = "dpm++3m"
    order: ClassVar[int] = 3


def curvature(h: float, seen: list[Seen], order: int) -> Tensor:
    """What x_0's change over the step adds to x_s / signal_s, from 2 or 3 predictions."""
    r, slope = slopes(h, seen, order)
    if order == 2:
        # Algorithm 2 takes half of the constant's weight, 1 - exp(-h), where the integral is phi_2 below: both are
        # h / 2 up to h^2
        return (-0.5 * expm1(-h)) * slope[0]
    first = slope[0] + (slope[1] - slope[0]) * (r[0] / (r[0] - r[1]))
    second = (slope[0] - slope[1]) / (r[0] - r[1])
    phi_2 = expm1(-h) / h + 1
    return phi_2 * first + (1 - 2 * phi_2 / h) * second
