"""What a network predicts, and what follows from it: eps, x_0 and v are one quantity in three coordinates.

With a = sqrt(alpha_bar_t) and b = sqrt(1 - alpha_bar_t):  x_t = a x_0 + b eps  and  v = a eps - b x_0
(Salimans and Ho 2022). Each prediction knows its training target and how to read x_0 and eps off its value; the
quantity that was predicted is passed on untouched, not through the other and back.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from undye.diffusion.process import like


class Prediction(ABC):
    """A choice of what the network predicts. `log_alpha_bar` is float64 on the CPU, one entry per image."""

    name: ClassVar[str]

    @abstractmethod
    def target(
        self, x_0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """What the network should have said, given the data and the noise."""

    @abstractmethod
    def read(
        self, value: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
    ) -> tuple[Tensor, Tensor]:
        """(x_0, eps) as implied by the network's `value` at x_t."""


def signal_and_noise(
    log_alpha_bar: Float64[Tensor, " b"], x: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped and typed to multiply `x`."""
    return like((0.5 * log_alpha_bar).exp(), x), like((-log_alpha_bar.expm1()).sqrt(), x)


def x_0_from_eps(
    eps: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), Ho et al. 2020, Eq. 15."""
    a, b = signal_and_noise(log_alpha_bar, x_t)
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

    def target(self, x_0, eps, log_alpha_bar):
        """eps."""  # noqa: D403
        return eps

    def read(self, value, x_t, log_alpha_bar):
        """x_0 through Eq. 15; eps as it is."""
        return x_0_from_eps(value, x_t, log_alpha_bar), value


@dataclass(frozen=True)
class X0(Prediction):
    """The clean image."""

    name: ClassVar[str] = "x_0"

    def target(self, x_0, eps, log_alpha_bar):
        """x_0."""
        return x_0

    def read(self, value, x_t, log_alpha_bar):
        """x_0 as it is; eps through Eq. 4."""
        return value, eps_from_x_0(value, x_t, log_alpha_bar)


@dataclass(frozen=True)
class V(Prediction):
    """The velocity v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0: Salimans and Ho 2022, section 4."""

    name: ClassVar[str] = "v"

    def target(self, x_0, eps, log_alpha_bar):
        """The velocity of the pair."""
        a, b = signal_and_noise(log_alpha_bar, x_0)
        return a * eps - b * x_0

    def read(self, value, x_t, log_alpha_bar):
        """(x_0, eps) by rotating (x_t, v) back."""
        a, b = signal_and_noise(log_alpha_bar, x_t)
        return a * x_t - b * value, b * x_t + a * value


PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (Eps(), X0(), V())}
