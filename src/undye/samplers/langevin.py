"""Annealed Langevin dynamics: Song and Ermon 2019, Algorithm 1, on a model of this paper's kind."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.prediction import eps_from_x_0, signal_and_noise
from undye.diffusion.process import like, times
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.score import sigma_at
from undye.samplers.base import PURE_NOISE, DenoiserLike, Noise, Sampler, Step, pairs


@dataclass(frozen=True)
class Langevin(Sampler):
    """At each noise level of the grid below T, some steps of Langevin dynamics; the last step of all takes the mean.

    In sigma space, y = x / sqrt(alpha_bar) = x_0 + sigma eps, a step is y + step_size sigma^2 score + sigma
    sqrt(2 step_size) z, where the score is that of the model's density at this sigma: -eps / sigma, for eps and score
    are the same thing (eps = -sqrt(1 - alpha_bar) score, Ho et al. 2020, section 3.2). In x, where no number grows
    with sigma, that is x - sqrt(1 - alpha_bar) (step_size eps - sqrt(2 step_size) z). y is left as it is where sigma
    falls to the next level, except from above 1000, where x is. After the last level the noise that is still there is
    taken out by x_0's posterior mean.

    Nothing of the transition probabilities is used, only the score of each level; so this needs finer levels than the
    other samplers: on the oracles its error falls with about the 1/2 to 2/3 power of their number.

    Attributes:
        repeats: Langevin steps at each level: network calls for each step of the grid.
        step_size: length of a step in units of sigma^2; the same as the paper's epsilon / (2 sigma_L^2).
    """

    name: ClassVar[str] = "langevin"
    default_steps: ClassVar[int | None] = 200
    repeats: int = 5
    step_size: float = 0.3

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must lie in (0, 1), got {self.step_size}")

    def calls(self, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> int:
        """See `Sampler.calls`."""
        return self.repeats * (len(grid) - 2) + 1

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`. A step's x_0 is the last prediction made for it, at s where that is above 0."""
        x, schedule = x_T, denoiser.schedule
        for index, (t, s) in enumerate(pairs(grid, schedule)):
            if s == 0:
                _, x_0 = self.predict_x_0(denoiser, x, times(t, x))
                yield Step(index, t, s, x_0, x_0)
                return
            s_ = times(s, x)
            log_ab, log_ab_t = schedule.log_alpha_bar_at(s_), schedule.log_alpha_bar_at(times(t, x))
            # pure noise at t is, unscaled, what pure noise at s would be; its y would be far out at a smaller sigma
            if sigma_at(log_ab_t)[0] <= PURE_NOISE:
                x = like((0.5 * (log_ab - log_ab_t)).exp(), x) * x
            x_0, b = x, signal_and_noise(log_ab, x)[1]
            for _ in range(self.repeats):
                out, x_0 = self.predict_x_0(denoiser, x, s_)
                eps = out.eps if x_0 is out.x_0 else eps_from_x_0(x_0, x, log_ab)
                x = x - b * (self.step_size * eps - math.sqrt(2 * self.step_size) * noise(x))
            yield Step(index, t, s, x, x_0)
