"""The probability-flow ODE followed to a tolerance: Song et al. 2021, Eq. 13, by Dormand and Prince's method."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.ode import solve_each
from undye.diffusion.prediction import eps_from_x_0, signal_and_noise
from undye.diffusion.process import times
from undye.diffusion.schedule import NoiseSchedule, log_alpha_bar_at_log_snr
from undye.errors import UserError
from undye.samplers.base import DenoiserLike, Levels, Noise, Sampler, Step, pairs


@dataclass(frozen=True)
class RK45(Sampler):
    """An adaptive Runge-Kutta method of order 5: as many steps as the tolerance asks for, each image its own.

    In lambda = log(signal / noise) the flow is dx / d lambda = signal noise (noise x_0 - signal eps), smooth and
    bounded from T down to t = 1, the first level that a network was trained on; there the posterior mean of x_0 is
    the sample. The grid only says where the walk is shown (a Step) on its way, not how long its steps are.

    Attributes:
        tolerance: error allowed in a step, absolute and relative, root mean square over an image's numbers.
    """

    name: ClassVar[str] = "rk45"
    default_steps: ClassVar[int | None] = 10
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance}")

    def calls(self, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> None:
        """See `Sampler.calls`: not known before."""

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`. A step's x_0 is the prediction made at s, and at the end the sample."""
        schedule, length = denoiser.schedule, None
        x = x_T

        def derivative(lam: Tensor, x: Tensor) -> Tensor:
            log_alpha_bar = log_alpha_bar_at_log_snr(2 * lam)
            t = schedule.time_at(log_alpha_bar.clamp(schedule.log_alpha_bar[-1].item(), 0))
            out, x_0 = self.predict_x_0(denoiser, x, t)
            eps = out.eps if x_0 is out.x_0 else eps_from_x_0(x_0, x, log_alpha_bar)
            a, b = signal_and_noise(log_alpha_bar, x)
            return a * b * (b * x_0 - a * eps)

        for index, (t, s) in enumerate(pairs(grid, schedule)):
            to = max(s, min(1.0, t))
            if to < t:
                ends = Levels.of(schedule, torch.tensor([t, to], dtype=torch.float64)).lam
                start, end = (torch.full((len(x),), lam, dtype=torch.float64) for lam in ends)
                try:
                    x, length, _ = solve_each(derivative, x, start, end, self.tolerance, length)
                except ArithmeticError as error:
                    raise UserError(f"the probability-flow ODE cannot be followed: {error}") from None
            _, x_0 = self.predict_x_0(denoiser, x, times(to, x))
            x = x_0 if s == 0 else x
            yield Step(index, t, s, x, x_0)
