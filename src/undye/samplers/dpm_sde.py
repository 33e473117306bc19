"""DPM-Solver++ for the stochastic differential equation, multistep: Lu et al. 2022, appendix A."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, expm1, sqrt
from typing import ClassVar

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.process import times
from undye.samplers.base import DenoiserLike, Levels, Noise, Sampler, Step, pairs
from undye.samplers.multistep import Seen, orders, slopes


@dataclass(frozen=True)
class DPM2MSDE(Sampler):
    """SDE-DPM-Solver++(2M): ancestral sampling whose x_0 follows a line through the last two predictions.

    x_s = noise_s / noise_t exp(-h) x_t + signal_s (1 - exp(-2h)) (x_0 + slope / 2) + noise_s sqrt(1 - exp(-2h)) z. With
    the slope left out it is DDIM with eta = 1, as the first step and the last are; the last draws no noise.
    """

    name: ClassVar[str] = "dpm++2m-sde"

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        walk = pairs(grid, denoiser.schedule)
        x, seen, at = x_T, list[Seen](), Levels.of(denoiser.schedule, grid)
        for index, ((t, s), order) in enumerate(zip(walk, orders(2, len(walk)), strict=True)):
            _, x_0 = self.predict_x_0(denoiser, x, times(t, x))
            seen = [*seen[-1:], Seen(at.lam[index], x_0)]
            h = at.lam[index + 1] - at.lam[index]
            drawn, mean = -expm1(-2 * h), x_0
            if order == 2:
                mean = x_0 + 0.5 * slopes(h, seen, 2)[1][0]
            x = (at.noise[index + 1] / at.noise[index] * exp(-h)) * x + (at.signal[index + 1] * drawn) * mean
            if s > 0:
                x = x + (at.noise[index + 1] * sqrt(drawn)) * noise(x)
            yield Step(index, t, s, x, x_0)
