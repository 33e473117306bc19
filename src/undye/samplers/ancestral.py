"""Ancestral sampling: Ho et al. 2020, Algorithm 2, between the times of any grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion import variance
from undye.diffusion.process import times
from undye.samplers.base import DenoiserLike, Noise, Sampler, Step, pairs


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Draws x_s from N(posterior mean of the predicted x_0, reverse variance); the last step takes the mean.

    As the original code does it, x_0 is predicted, clipped, and put into the posterior mean (Eq. 7); unclipped that is
    line 4 of Algorithm 2.

    Attributes:
        variance: fixed_small or fixed_large, or what the model has learned; None: the model's own.
    """

    name: ClassVar[str] = "ancestral"
    default_steps: ClassVar[int | None] = None
    variance: str | None = None

    def __post_init__(self) -> None:
        """Check the name of the variance."""
        if self.variance is not None and self.variance not in variance.VARIANCES:
            raise ValueError(f"unknown variance {self.variance!r}: choose from {', '.join(variance.VARIANCES)}")

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        x = x_T
        for index, (t, s) in enumerate(pairs(grid, denoiser.schedule)):
            x, x_0 = self.step(denoiser, x, t, s, noise)
            yield Step(index, t, s, x, x_0)

    def step(self, denoiser: DenoiserLike, x: Tensor, t: float, s: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """One step alone: x_s, and the x_0 that was predicted at t."""
        t_, s_ = times(t, x), times(s, x)
        out, x_0 = self.predict_x_0(denoiser, x, t_)
        mean = denoiser.process.posterior(x_0, x, t_, s_).mean
        if s == 0:
            return mean, x_0
        kind = self.variance or denoiser.config.variance
        log_var = variance.log_var(kind, denoiser.schedule, t_, s_, out.learned_variance)
        std = (0.5 * log_var).exp().to(x.dtype).to(x.device)
        return mean + (std if std.ndim == 4 else std.view(-1, 1, 1, 1)) * noise(x), x_0
