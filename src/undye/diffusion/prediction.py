"""What a network predicts, and what follows from it: one quantity in five coordinates.

With a = sqrt(alpha_bar_t) and b = sqrt(1 - alpha_bar_t):  x_t = a x_0 + b eps,  v = a eps - b x_0 (Salimans and Ho
2022), the score is -eps / b, and mu is the mean of q(x_{t-1} | x_t, x_0). Each prediction knows its training target and
how to read x_0 and eps off its value; the quantity that was predicted is passed on untouched, not through the other and
back. For the whole chain of conversions see docs/mathematics.md.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Real
from torch import Tensor

from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule


class Prediction(ABC):
    """A choice of what the network predicts. Times t are (B,), integers or reals in (0, T]."""

    name: ClassVar[str]

    @abstractmethod
    def target(
        self,
        x_0: Float[Tensor, "b c h w"],
        eps: Float[Tensor, "b c h w"],
        schedule: NoiseSchedule,
        t: Real[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """What the network should have said, given the data and the noise."""

    @abstractmethod
    def read(
        self,
        value: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        schedule: NoiseSchedule,
        t: Real[Tensor, " b"],
    ) -> tuple[Tensor, Tensor]:
        """(x_0, eps) as implied by the network's `value` at x_t."""

    @abstractmethod
    def log_error_ratio(self, schedule: NoiseSchedule, t: Real[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """Log of |error of eps| / |error of the value|, at a given x_t: loss weights are stated for eps."""


def signal_and_noise(
    log_alpha_bar: Float64[Tensor, " b"], x: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped and typed to multiply `x`."""
    return like((0.5 * log_alpha_bar).exp(), x), like((-log_alpha_bar.expm1()).sqrt(), x)


def divisor_and_noise(
    log_alpha_bar: Float64[Tensor, " b"], x: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """As `signal_and_noise`, where the signal is what one divides by."""
    a, b = signal_and_noise(log_alpha_bar, x)
    return _divisor(a), b


def _divisor(signal: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b 1 1 1"]:
    """The signal, but no less than what leaves room for x_t when divided by: 5e-31 in float32, 6e-247 in float64.

    Down there x_t, rounded, has long ceased to say anything of x_0. Long schedules reach it, and a signal that rounds
    to 0, where 0 / 0 would be no number at all.
    """
    return signal.clamp(min=torch.finfo(signal.dtype).tiny ** 0.8)


def x_0_from_eps(
    eps: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), Ho et al. 2020, Eq. 15; finite without signal too."""
    a, b = divisor_and_noise(log_alpha_bar, x_t)
    return (x_t - b * eps) / a


def eps_from_x_0(
    x_0: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar): Ho et al. 2020, Eq. 4, solved for eps. Needs t > 0."""
    a, b = signal_and_noise(log_alpha_bar, x_t)
    return (x_t - a * x_0) / b


@dataclass(frozen=True)
class Eps(Prediction):
    """The noise: Ho et al. 2020, section 3.2."""

    name: ClassVar[str] = "eps"

    def target(self, x_0, eps, schedule, t):
        """eps."""  # noqa: D403
        return eps

    def read(self, value, x_t, schedule, t):
        """x_0 through Eq. 15; eps as it is."""
        return x_0_from_eps(value, x_t, schedule.log_alpha_bar_at(t)), value

    def log_error_ratio(self, schedule, t):
        """1."""
        return schedule.log_alpha_bar_at(t) * 0


@dataclass(frozen=True)
class X0(Prediction):
    """The clean image."""

    name: ClassVar[str] = "x_0"

    def target(self, x_0, eps, schedule, t):
        """x_0."""
        return x_0

    def read(self, value, x_t, schedule, t):
        """x_0 as it is; eps through Eq. 4."""
        return value, eps_from_x_0(value, x_t, schedule.log_alpha_bar_at(t))

    def log_error_ratio(self, schedule, t):
        """A / b."""
        return _log_ratio(schedule, t)


@dataclass(frozen=True)
class V(Prediction):
    """The velocity v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0: Salimans and Ho 2022, section 4."""

    name: ClassVar[str] = "v"

    def target(self, x_0, eps, schedule, t):
        """The velocity of the pair."""
        a, b = signal_and_noise(schedule.log_alpha_bar_at(t), x_0)
        return a * eps - b * x_0

    def read(self, value, x_t, schedule, t):
        """(x_0, eps) by rotating (x_t, v) back."""
        a, b = signal_and_noise(schedule.log_alpha_bar_at(t), x_t)
        return a * x_t - b * value, b * x_t + a * value

    def log_error_ratio(self, schedule, t):
        """A."""
        return 0.5 * schedule.log_alpha_bar_at(t)


@dataclass(frozen=True)
class Mu(Prediction):
    """The posterior mean mu of the step t -> t - 1 (to 0, for t below 1): Ho et al. 2020, Eqs. 7 and 8, and Table 2."""

    name: ClassVar[str] = "mu"

    def target(self, x_0, eps, schedule, t):
        """Eq. 7 with x_t = a x_0 + b eps put in: sqrt(alpha_bar_{t-1}) x_0 + sqrt(alpha) (1 - alpha_bar_{t-1}) / b eps.

        That is Eq. 10 without its difference b - beta / b, which cancels.
        """
        log_ab, log_alpha = self._logs(schedule, t)
        noise_t, noise_s = -log_ab.expm1(), -(log_ab - log_alpha).expm1()
        weight_eps = (0.5 * log_alpha).exp() * noise_s / noise_t.sqrt()
        return like((0.5 * (log_ab - log_alpha)).exp(), x_0) * x_0 + like(weight_eps, x_0) * eps

    def read(self, value, x_t, schedule, t):
        """Eq. 7 solved for x_0, Eq. 10 solved for eps."""
        log_ab, log_alpha = self._logs(schedule, t)
        noise_t, noise_s, beta = -log_ab.expm1(), -(log_ab - log_alpha).expm1(), -log_alpha.expm1()
        weight_x_0 = (0.5 * (log_ab - log_alpha)).exp() * beta / noise_t
        weight_x_t = (0.5 * log_alpha).exp() * noise_s / noise_t
        x_0 = (value - like(weight_x_t, x_t) * x_t) / _divisor(like(weight_x_0, x_t))
        eps = (x_t - like((0.5 * log_alpha).exp(), x_t) * value) * like(noise_t.sqrt() / beta, x_t)
        return x_0, eps

    def log_error_ratio(self, schedule, t):
        """sqrt(alpha (1 - alpha_bar)) / beta."""
        log_ab, log_alpha = self._logs(schedule, t)
        return 0.5 * (log_alpha + (-log_ab.expm1()).log()) - (-log_alpha.expm1()).log()

    @staticmethod
    def _logs(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(log alpha_bar_t, log alpha of the step down from t)."""
        log_ab = schedule.log_alpha_bar_at(t)
        return log_ab, log_ab - schedule.log_alpha_bar_at((t - 1).clamp(min=0))


@dataclass(frozen=True)
class Score(Prediction):
    """The score, the gradient of log q(x_t | x_0) at x_t, whose mean over x_0 is that of log q(x_t): Vincent 2011."""

    name: ClassVar[str] = "score"

    def target(self, x_0, eps, schedule, t):
        """-eps / sqrt(1 - alpha_bar)."""
        _, b = signal_and_noise(schedule.log_alpha_bar_at(t), x_0)
        return -eps / b

    def read(self, value, x_t, schedule, t):
        """Tweedie: x_0 = (x_t + (1 - alpha_bar) score) / sqrt(alpha_bar)."""
        a, b = divisor_and_noise(schedule.log_alpha_bar_at(t), x_t)
        return (x_t + b.square() * value) / a, -b * value

    def log_error_ratio(self, schedule, t):
        """b."""  # noqa: D403
        return 0.5 * (-schedule.log_alpha_bar_at(t).expm1()).log()


def _log_ratio(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Log a / b, half the log-SNR."""
    log_ab = schedule.log_alpha_bar_at(t)
    return 0.5 * (log_ab - (-log_ab.expm1()).log())


PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (Eps(), X0(), V(), Mu(), Score())}
