"""DDIM: Song et al. 2021, Denoising Diffusion Implicit Models."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.prediction import eps_from_x_0
from undye.diffusion.process import like, times
from undye.samplers.base import DenoiserLike, Noise, Sampler, Step, pairs


@dataclass(frozen=True)
class DDIM(Sampler):
    """Eq. 12: x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z, sigma = eta * posterior std.

    Where x_0 was clipped, eps is derived anew from it, so that both still explain x_t.

    Attributes:
        eta: 0 is deterministic; 1 has the marginals of ancestral sampling with fixed_small.
    """

    name: ClassVar[str] = "ddim"
    eta: float = 0.0

    def __post_init__(self) -> None:
        """Check eta."""
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

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
        log_ab_t, log_ab_s = denoiser.schedule.log_alpha_bar_at(t_), denoiser.schedule.log_alpha_bar_at(s_)
        out, x_0 = self.predict_x_0(denoiser, x, t_)
        eps = out.eps if x_0 is out.x_0 else eps_from_x_0(x_0, x, log_ab_t)
        noise_s = -log_ab_s.expm1()
        posterior_var = -(log_ab_t - log_ab_s).expm1() * noise_s / -log_ab_t.expm1()
        var = self.eta**2 * posterior_var
        x_s = like((0.5 * log_ab_s).exp(), x) * x_0 + like((noise_s - var).clamp(min=0).sqrt(), x) * eps
        return (x_s + like(var.sqrt(), x) * noise(x) if self.eta > 0 and s > 0 else x_s), x_0
