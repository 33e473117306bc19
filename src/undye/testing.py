"""Oracle denoisers: data whose density is known, and the exact answer that a perfect network would give.

An oracle stands where samplers, likelihood and editing take a model, so that what they return can be held against the
truth instead of against another program. Everything here is float64 and in closed form.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.config import ModelConfig
from undye.denoiser import Denoised
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.variance import log_forward_var, log_posterior_var

Numbers = Sequence[Any] | Tensor
"""A tensor, or nested lists of numbers."""


class GaussianMixtureOracle:
    """The exact denoiser of data drawn from a mixture of K Gaussians over images of D = C*H*W numbers.

    Diffused to time t, component k is N(a m_k, a^2 S_k + b^2 I) with a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t),
    and E[x_0 | x_t] follows from the linear Gaussian model (Bishop 2006, Eqs. 2.113 to 2.117), averaged over the
    components by their responsibilities at x_t. It is the minimiser of the squared error, for every t at once.

    Samplers take it as it is: it has their `config` (x_0 is not clipped; its network and its schedule's name mean
    nothing), `schedule` and `process`, and is called with (x_t, t), t integer or real in (0, T].

    Args:
        schedule: the noise schedule.
        weights: K positive numbers, in any unit.
        means: (K, C, H, W) or (K, D).
        stds: K numbers, for isotropic components: covariance std^2 I. May be 0: a point.
        covs: (K, D, D), for full covariances, positive semi-definite. Give either `stds` or `covs`.
        image_shape: (C, H, W); None: as `means` has it.
        variance: what the config says of the reverse variance. "learned" makes the oracle give, pixel by pixel, the
            exact variance of x_{t-1} given x_t: no diagonal Gaussian reverse step is better.

    Raises:
        ValueError: if the shapes do not belong together, or not exactly one of `stds` and `covs` is given.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        weights: Numbers,
        means: Numbers,
        *,
        stds: Numbers | None = None,
        covs: Numbers | None = None,
        image_shape: tuple[int, int, int] | None = None,
        variance: Literal["fixed_small", "fixed_large", "learned"] = "fixed_large",
    ):
        centres = _float64(means)
        if image_shape is None:
            if centres.ndim != 4:
                raise ValueError(f"means must be (K, C, H, W) where image_shape is not given, got {centres.shape}")
            image_shape = (centres.shape[1], centres.shape[2], centres.shape[3])
        k, d = len(centres), math.prod(image_shape)
        self.shape = image_shape
        self.schedule, self.process = schedule, GaussianProcess(schedule)
        self.config = ModelConfig(
            channels=image_shape[0], image_size=image_shape[1:], clip_x_0=False, variance=variance
        )
        self._log_weights = _float64(weights).log().log_softmax(0)
        self._means = centres.reshape(k, d)
        if (stds is None) == (covs is None):
            raise ValueError("give either stds or covs")
        if stds is not None:
            self._covs = _float64(stds).square()[:, None, None] * torch.eye(d, dtype=torch.float64)
        else:
            self._covs = _float64(covs)
        if self._log_weights.shape != (k,) or self._covs.shape != (k, d, d):
            raise ValueError(f"weights, means and covariances must be those of {k} components in {d} dimensions")
        # a^2 S + b^2 I has the axes of S at every time: one decomposition serves all of them
        self._eigenvalues, self._axes = torch.linalg.eigh(self._covs)
        self._eigenvalues = self._eigenvalues.clamp(min=0)

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], /) -> Denoised:
        """E[x_0 | x_t] and E[eps | x_t], each (B, C, H, W), in x_t's dtype; neither is made from the other."""
        a, b, var, offset = self._noisy(x_t, t)
        log_joint = self._log_weights + self._log_normal(var, offset)
        responsibility = log_joint.softmax(1)[:, :, None]
        whitened = offset / var
        x_0 = self._means + a[:, :, None] * self._rotate_back(self._eigenvalues * whitened)
        eps = b[:, :, None] * self._rotate_back(whitened)
        x_0_hat, eps_hat = ((responsibility * part).sum(1) for part in (x_0, eps))
        log_var_offset = None
        if self.config.variance == "learned":
            along_axes = self._eigenvalues * b[:, :, None].square() / var
            within = torch.einsum("kij,bkj->bki", self._axes.square(), along_axes)
            var_x_0 = (responsibility * (within + (x_0 - x_0_hat[:, None]).square())).sum(1)
            log_var_offset = self._log_var_offset(var_x_0, t).reshape(x_t.shape).to(x_t)
        return Denoised(
            x_0_hat.reshape(x_t.shape).to(x_t), eps_hat.reshape(x_t.shape).to(x_t), log_var_offset=log_var_offset
        )

    def _log_var_offset(self, var_x_0: Tensor, t: Tensor) -> Tensor:
        """Log of Var[x_{t-1} | x_t] over the forward variance, (B, D), from Var[x_0 | x_t]."""
        s = (t - 1).clamp(min=0)
        log_ab_t, log_ab_s = self.schedule.log_alpha_bar_at(t), self.schedule.log_alpha_bar_at(s)
        weight = (0.5 * log_ab_s).exp() * (log_ab_t - log_ab_s).expm1() / log_ab_t.expm1()
        var = log_posterior_var(self.schedule, t, s).exp()[:, None] + weight.square()[:, None] * var_x_0
        return var.log() - log_forward_var(self.schedule, t, s)[:, None]

    def log_prob(self, x: Float[Tensor, "b c h w"], t: Real[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Log density of images in nats, float64: of the data, or of the data diffused to times `t`.

        Minus or plus infinity where a component is a point and the time is 0.
        """
        _, _, var, offset = self._noisy(x, torch.zeros(len(x), dtype=torch.int64) if t is None else t)
        return (self._log_weights + self._log_normal(var, offset)).logsumexp(1)

    def sample(self, n: int, seed: int = 0) -> Float[Tensor, "n c h w"]:
        """`n` images of the data, float64 (n, C, H, W), the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self._log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self._means.shape[1], dtype=torch.float64, generator=generator)
        x = self._means[which] + torch.einsum("nij,nj->ni", self._axes[which], self._eigenvalues[which].sqrt() * z)
        return x.reshape(n, *self.shape)

    @property
    def mean(self) -> Float[Tensor, "c h w"]:
        """Mean of the data, float64."""
        return (self._log_weights.exp() @ self._means).reshape(self.shape)

    @property
    def cov(self) -> Float[Tensor, "d d"]:
        """Covariance of the data's D = C*H*W numbers, float64."""
        weights = self._log_weights.exp()
        offset = self._means - weights @ self._means
        return torch.einsum("k,kij->ij", weights, self._covs + offset[:, :, None] * offset[:, None, :])

    def _noisy(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a and b, (B, 1); each component's variances along its axes and x - a m_k along them, (B, K, D)."""  # noqa: D403
        log_alpha_bar = self.schedule.log_alpha_bar_at(t)[:, None]
        a, b2 = (0.5 * log_alpha_bar).exp(), -log_alpha_bar.expm1()
        var = a[:, :, None].square() * self._eigenvalues + b2[:, :, None]
        offset = _float64(x).flatten(1)[:, None, :] - a[:, :, None] * self._means
        return a, b2.sqrt(), var, torch.einsum("kji,bkj->bki", self._axes, offset)

    def _rotate_back(self, along_axes: Tensor) -> Tensor:
        return torch.einsum("kij,bkj->bki", self._axes, along_axes)

    @staticmethod
    def _log_normal(var: Tensor, offset: Tensor) -> Tensor:
        """Log N(offset; 0, diag(var)) of each component, (B, K)."""
        return -0.5 * (offset.square() / var + var.log() + math.log(2 * math.pi)).sum(2)


class GaussianOracle(GaussianMixtureOracle):
    """The exact denoiser of data drawn from one Gaussian: an affine map at every t.

    Args:
        schedule: the noise schedule.
        mean: (C, H, W).
        cov: (D, D) with D = C*H*W, positive semi-definite.
    """

    def __init__(self, schedule: NoiseSchedule, mean: Numbers, cov: Numbers):
        super().__init__(schedule, [1.0], _float64(mean)[None], covs=_float64(cov)[None])

    def flow(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Where the probability flow ODE (Song et al. 2021, score-based SDEs, Eq. 13) takes x_t at time 0; float64.

        Along each axis of the covariance it keeps the distance from the mean in standard deviations.
        """
        _, _, var, offset = self._noisy(x_t, t)
        x_0 = self._means + self._rotate_back(offset / var.sqrt() * self._eigenvalues.sqrt())
        return x_0.reshape(x_t.shape)


def _float64(values: Numbers | None) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")
