"""The forward process and its posterior, between any two times s < t.

Coefficients are computed on the CPU in float64 from log_alpha_bar and cast to the images' dtype and device on use, so
that half precision and devices without float64 get the right numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Gaussian:
    """N(mean, var I). mean: (B, C, H, W); var: (B, 1, 1, 1)."""

    mean: Tensor
    var: Tensor

    def sample(self, eps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mean + sqrt(var) eps, for standard normal eps."""
        return self.mean + self.var.sqrt() * eps


@dataclass(frozen=True)
class GaussianProcess:
    """q(x_t | x_0), q(x_t | x_s) and q(x_s | x_t, x_0) of a schedule, for any 0 <= s < t <= T.

    Sampling on fewer steps than T is a choice of times, not a new process. Times are tensors of shape (B,), integers or
    reals, as `NoiseSchedule` describes.
    """

    schedule: NoiseSchedule

    def marginal(self, x_0: Float[Tensor, "b c h w"], t: Real[Tensor, " b"]) -> Gaussian:
        """q(x_t | x_0), Ho et al. 2020, Eq. 4. At t = 0 it is x_0 itself, with variance 0."""
        log_alpha_bar = self.schedule.log_alpha_bar_at(t)
        mean = like((0.5 * log_alpha_bar).exp(), x_0) * x_0
        return Gaussian(mean, like(-log_alpha_bar.expm1(), x_0))

    def q_sample(
        self, x_0: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], eps: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, Ho et al. 2020, Eq. 4."""
        log_alpha_bar = self.schedule.log_alpha_bar_at(t)
        signal, noise = (0.5 * log_alpha_bar).exp(), (-log_alpha_bar.expm1()).sqrt()
        return like(signal, x_0) * x_0 + like(noise, x_0) * eps

    def transition(self, x_s: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], s: Real[Tensor, " b"]) -> Gaussian:
        """q(x_t | x_s), s < t; with s = t - 1 it is Ho et al. 2020, Eq. 2."""
        log_alpha_ts = self._log_alpha(t, s)
        return Gaussian(like((0.5 * log_alpha_ts).exp(), x_s) * x_s, like(-log_alpha_ts.expm1(), x_s))

    def posterior(
        self,
        x_0: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        s: Real[Tensor, " b"] | None = None,
    ) -> Gaussian:
        """q(x_s | x_t, x_0), s < t, Ho et al. 2020, Eqs. 6 and 7 (there s = t - 1, which is the default here).

        At s = 0 it is x_0 itself, with variance 0.
        """
        s = t - 1 if s is None else s
        log_ab_t, log_ab_s = self.schedule.log_alpha_bar_at(t), self.schedule.log_alpha_bar_at(s)
        log_alpha_ts = self._log_alpha(t, s)
        beta_ts, noise_s, noise_t = -log_alpha_ts.expm1(), -log_ab_s.expm1(), -log_ab_t.expm1()
        weight_x_0 = (0.5 * log_ab_s).exp() * beta_ts / noise_t
        weight_x_t = (0.5 * log_alpha_ts).exp() * noise_s / noise_t
        mean = like(weight_x_0, x_0) * x_0 + like(weight_x_t, x_t) * x_t
        return Gaussian(mean, like(beta_ts * noise_s / noise_t, x_t))

    def posterior_mean_from_eps(
        self,
        eps: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        s: Real[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The mean of q(x_s | x_t, x_0) in its other form, in x_t and eps: Ho et al. 2020, Eqs. 10 and 11.

        (x_t - beta / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha): alpha is alpha_bar_t / alpha_bar_s, beta is 1 - alpha.
        """
        log_alpha_ts = self._log_alpha(t, t - 1 if s is None else s)
        noise_t = -self.schedule.log_alpha_bar_at(t).expm1()
        share = like(-log_alpha_ts.expm1() / noise_t.sqrt(), x_t)
        return like((-0.5 * log_alpha_ts).exp(), x_t) * (x_t - share * eps)

    def forward(
        self,
        x_0: Float[Tensor, "b c h w"],
        grid: Sequence[float] | Real[Tensor, " n"],
        noise: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[float, Float[Tensor, "b c h w"]]]:
        """One path of the forward process: (0, x_0), then (t, x_t) for each time of the grid, each from the last.

        Args:
            x_0: the data.
            grid: strictly rising times in (0, T].
            noise: called with a tensor, gives standard normal noise of its shape, dtype and device.

        Raises:
            ValueError: if the times do not rise from above 0.
        """
        x, last = x_0, 0.0
        yield last, x
        for t in grid:
            now = float(t)
            x = self.transition(x, times(now, x), times(last, x)).sample(noise(x))
            last = now
            yield now, x

    def _log_alpha(self, t: Real[Tensor, " b"], s: Real[Tensor, " b"]) -> Tensor:
        """log(alpha_bar_t / alpha_bar_s), float64."""
        if not bool((s < t).all()):
            raise ValueError("the earlier time s must be below t")
        return self.schedule.log_alpha_bar_at(t) - self.schedule.log_alpha_bar_at(s)


def like(coefficient: Float[Tensor, " b"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 1"]:
    """A coefficient per example, in the images' dtype and on their device, shaped to multiply them."""
    return coefficient.to(x.dtype).to(x.device).view(-1, 1, 1, 1)


def times(t: float, x: Float[Tensor, "b c h w"]) -> Real[Tensor, " b"]:
    """The time `t` for each image of a batch; integers stay integers. On the CPU, where coefficients are computed."""
    return torch.full((len(x),), t, dtype=torch.int64 if float(t).is_integer() else torch.float64)
