"""Euler's and Heun's method as Karras et al. 2022 use them (EDM), with churn: Algorithms 1 and 2."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.prediction import eps_from_x_0
from undye.diffusion.process import times
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.score import log_alpha_bar_at_sigma, sigma_at
from undye.samplers.base import PURE_NOISE, DenoiserLike, Levels, Noise, Sampler, Step, pairs


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method for dy / d sigma = eps, y = x / sqrt(alpha_bar). Without churn it is DDIM.

    Churn adds noise before a step, up to a higher sigma, from where the step is taken. Here that is at most T's.

    Attributes:
        s_churn: how much: sigma grows by the factor 1 + min(s_churn / steps, sqrt(2) - 1); 0 is deterministic.
        s_tmin: churn only at sigmas from here,
        s_tmax: to here.
        s_noise: standard deviation of the new noise; the paper found 1.003 or so to make up for lost detail.
    """

    name: ClassVar[str] = "euler"
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        if not 0 <= self.s_churn < inf or not 0 < self.s_noise < inf or not 0 <= self.s_tmin <= self.s_tmax:
            raise ValueError("s_churn must be at least 0, s_noise above 0, and s_tmin at most s_tmax")

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        schedule = denoiser.schedule
        walk = pairs(grid, schedule)
        x, at = x_T, Levels.of(schedule, grid)
        churn = min(self.s_churn / len(walk), sqrt(2) - 1)
        for index, (t, s) in enumerate(walk):
            start, sigma = t, at.sigma[index]
            if churn > 0 and s > 0 and self.s_tmin <= sigma <= self.s_tmax:
                start = _raised(schedule, sigma * (1 + churn))
                # y + sqrt(sigma_hat^2 - sigma^2) z is, in x = signal y, the process's own transition up to there
                alpha, added = _between(schedule, t, start)
                x = alpha**0.5 * x + (added**0.5 * self.s_noise) * noise(x)
                sigma = _sigma(schedule, start)
            x_0, eps = self.predict_both(denoiser, x, start)
            a_s, b_s = at.signal[index + 1], at.noise[index + 1]
            x_s = a_s * x_0 + b_s * eps
            if s > 0 and self.corrects(sigma):
                _, eps_s = self.predict_both(denoiser, x_s, s)
                # y_s = y + (sigma_s - sigma) (eps + eps_s) / 2, as the Euler step and what has to be added to it
                x_s = x_s + (0.5 * (b_s - a_s * sigma)) * (eps_s - eps)
            x = x_s
            yield Step(index, t, s, x, x_0)

    def corrects(self, sigma: float) -> bool:
        """Whether a step that starts at sigma has a second stage."""
        return False

    def predict_both(self, denoiser: DenoiserLike, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The clipped x_0, and the eps that goes with it."""
        t_ = times(t, x)
        out, x_0 = self.predict_x_0(denoiser, x, t_)
        return x_0, out.eps if x_0 is out.x_0 else eps_from_x_0(x_0, x, denoiser.schedule.log_alpha_bar_at(t_))


@dataclass(frozen=True)
class Heun(Euler):
    """Heun's method of second order: Algorithm 1. Two network calls a step, and one for the last.

    Where a step starts above sigma = 1000 it is Euler's: a step in sigma would be all of sigma's range.
    """

    name: ClassVar[str] = "heun"
    default_steps: ClassVar[int | None] = 25

    def corrects(self, sigma: float) -> bool:
        """See `Euler.corrects`."""
        return sigma <= PURE_NOISE

    def calls(self, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> int:
        """See `Sampler.calls`."""
        churn = min(self.s_churn / (len(grid) - 1), sqrt(2) - 1)
        twice = 0
        for sigma in Levels.of(schedule, grid[:-2]).sigma:
            if churn > 0 and self.s_tmin <= sigma <= self.s_tmax:
                sigma = _sigma(schedule, _raised(schedule, sigma * (1 + churn)))
            twice += self.corrects(sigma)
        return len(grid) - 1 + twice


def _raised(schedule: NoiseSchedule, sigma: float) -> float:
    """The time at which the noise is sigma; T if that is never."""
    wanted = log_alpha_bar_at_sigma(torch.tensor(sigma, dtype=torch.float64))
    return schedule.time_at(wanted.clamp(min=schedule.log_alpha_bar[-1].item())).item()


def _sigma(schedule: NoiseSchedule, t: float) -> float:
    """The noise at a time; infinite where no number is as large."""
    return sigma_at(schedule.log_alpha_bar_at(torch.tensor(t, dtype=torch.float64))).item()


def _between(schedule: NoiseSchedule, s: float, t: float) -> tuple[float, float]:
    """Alpha and 1 - alpha of the transition from s up to t; 1 and 0 where t is not above s."""
    log_ab_s, log_ab_t = schedule.log_alpha_bar_at(torch.tensor([s, t], dtype=torch.float64))
    log_alpha = (log_ab_t - log_ab_s).clamp(max=0)
    return log_alpha.exp().item(), -log_alpha.expm1().item()
