"""Noise schedules: how much of the data is left at each timestep.

One float64 tensor says everything, `log_alpha_bar` (T+1 entries, entry 0 is 0: the data itself). beta, alpha, alpha_bar
and the signal-to-noise ratio follow from it, through `expm1` where a difference from one would cancel. Timesteps are
the paper's: t in 1..T, and index 0 is the data. There are no `_prev` arrays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Real
from torch import Tensor


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete noise schedule q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), Ho et al. 2020, Eq. 4.

    Attributes:
        log_alpha_bar: float64, T+1 entries, on the CPU; entry 0 is 0 and every entry is below the one before it.

    Raises:
        ValueError: if `log_alpha_bar` is not such a tensor.
    """

    log_alpha_bar: Tensor

    def __post_init__(self) -> None:
        """Check what every formula below takes for granted."""
        lab = self.log_alpha_bar
        if lab.dtype != torch.float64 or lab.device.type != "cpu" or lab.ndim != 1 or len(lab) < 2:
            raise ValueError("log_alpha_bar must be a 1-D float64 CPU tensor of T+1 >= 2 entries")
        if lab[0] != 0:
            raise ValueError(f"log_alpha_bar[0] must be 0 (index 0 is the data), got {lab[0].item()}")
        if not torch.isfinite(lab).all() or not (lab.diff() < 0).all():
            raise ValueError("alpha_bar must decrease strictly and stay above 0: every beta must lie in (0, 1)")

    @classmethod
    def from_beta(cls, beta: Real[Tensor, " T"]) -> "NoiseSchedule":
        """The schedule with the forward variances beta_1..beta_T, each in (0, 1)."""
        beta = beta.detach().to("cpu", torch.float64)
        if beta.ndim != 1 or len(beta) < 1 or not ((beta > 0) & (beta < 1)).all():
            raise ValueError("beta must be a 1-D tensor of at least one entry, each in (0, 1)")
        # log1p keeps the small betas of the early steps, which 1 - beta would round away
        return cls(torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), torch.log1p(-beta).cumsum(0)]))

    @classmethod
    def named(
        cls, name: str, num_steps: int = 1000, *, zero_terminal_snr: bool = False, **options: float
    ) -> "NoiseSchedule":
        """A schedule by name, see `SCHEDULES`; other projects' names are in `undye.diffusion.schedule_names`.

        Args:
            name: a key of `SCHEDULES`.
            num_steps: T.
            zero_terminal_snr: take the signal that is left at T out of it, see `with_zero_terminal_snr`.
            options: the schedule's own: beta_start, beta_end, rescale_betas; offset, max_beta, min_beta for cosine.

        Raises:
            ValueError: for an unknown name or option, `num_steps` < 1, or options that make a beta leave (0, 1).
        """
        if name not in SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}: choose from {', '.join(SCHEDULES)}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        try:
            schedule = SCHEDULES[name](num_steps, **options)
        except TypeError as error:
            raise ValueError(f"schedule {name!r}: {error}") from None
        return schedule.with_zero_terminal_snr() if zero_terminal_snr else schedule

    def with_zero_terminal_snr(self, terminal_alpha_bar: float = 1e-20) -> "NoiseSchedule":
        """The schedule with sqrt(alpha_bar) shifted and scaled so that nothing of the data is left at T.

        Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Algorithm 1: sqrt(alpha_bar_1)
        stays, sqrt(alpha_bar_T) becomes zero; here `terminal_alpha_bar`, so that every alpha stays above 0 and every
        logarithm finite. A schedule that reaches it by itself comes back as it is. x_T then says nothing of the data:
        predict v or x_0, from which x_0 follows there too; eps is x_T itself and useless at T.

        Raises:
            ValueError: for a schedule of one step, which has no end to move without moving its start.
        """
        if self.alpha_bar[-1] <= terminal_alpha_bar:
            return self
        if self.num_steps < 2:
            raise ValueError("zero terminal SNR needs a schedule of at least 2 steps")
        root = (0.5 * self.log_alpha_bar[1:]).exp()
        end = terminal_alpha_bar**0.5
        # a sum of positive terms: no cancellation, and the last entry is `end` exactly
        moved = (root - root[-1]) * ((root[0] - end) / (root[0] - root[-1])) + end
        return NoiseSchedule(torch.cat([self.log_alpha_bar[:1], self.log_alpha_bar[1:2], 2 * moved[1:].log()]))

    @property
    def num_steps(self) -> int:
        """T, the number of timesteps."""
        return len(self.log_alpha_bar) - 1

    @property
    def alpha_bar(self) -> Float64[Tensor, " {self.num_steps}+1"]:
        """Product of alpha_1..alpha_t; entry 0 is 1. May underflow to 0 for long schedules: log_alpha_bar does not."""
        return self.log_alpha_bar.exp()

    @property
    def alpha(self) -> Float64[Tensor, " {self.num_steps}+1"]:
        """alpha_t = 1 - beta_t; entry 0 is 1."""
        return torch.cat([self.log_alpha_bar[:1], self.log_alpha_bar.diff()]).exp()

    @property
    def beta(self) -> Float64[Tensor, " {self.num_steps}+1"]:
        """The variances of the forward steps; entry 0 is 0."""
        return -torch.cat([self.log_alpha_bar[:1], self.log_alpha_bar.diff()]).expm1()

    @property
    def log_snr(self) -> Float64[Tensor, " {self.num_steps}+1"]:
        """log(alpha_bar / (1 - alpha_bar)); entry 0 is +inf."""
        return log_snr(self.log_alpha_bar)

    @property
    def snr(self) -> Float64[Tensor, " {self.num_steps}+1"]:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar); entry 0 is +inf."""
        return self.log_snr.exp()

    def log_alpha_bar_at(self, t: Real[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """log_alpha_bar at integer or real times in [0, T], linear between integers; float64 on the CPU.

        Raises:
            ValueError: if a time lies outside [0, T] or is not a number.
        """
        t = t.detach().to("cpu")
        if not bool(((t >= 0) & (t <= self.num_steps)).all()):
            raise ValueError(f"timesteps must lie in 0..{self.num_steps}, got {t.min().item()}..{t.max().item()}")
        if not t.is_floating_point():
            return self.log_alpha_bar[t.long()]
        t = t.double()
        low = t.floor().long().clamp(max=self.num_steps - 1)
        return torch.lerp(self.log_alpha_bar[low], self.log_alpha_bar[low + 1], t - low)

    def time_at(self, log_alpha_bar: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """The real time in [0, T] at which log_alpha_bar has these values: the inverse of `log_alpha_bar_at`.

        Raises:
            ValueError: for a value above 0 or below log_alpha_bar_T.
        """
        wanted, table = log_alpha_bar.detach().to("cpu"), self.log_alpha_bar
        if not bool(((wanted <= 0) & (wanted >= table[-1])).all()):
            raise ValueError(f"log_alpha_bar must lie in {table[-1].item()}..0")
        # the table falls and searchsorted wants it to rise; wanted in (table[low + 1], table[low]]
        low = (torch.searchsorted(-table, -wanted, right=True) - 1).clamp(0, self.num_steps - 1)
        return low + (table[low] - wanted) / (table[low] - table[low + 1])

    def drift_at(self, t: Real[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """The slope of log_alpha_bar at real times in (0, T], from the left at integers: minus the SDE's beta(t).

        In continuous time the process is dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw (Song et al. 2021, Eq. 11), and
        log_alpha_bar is minus the integral of beta.
        """
        self.log_alpha_bar_at(t)  # checks the range
        low = (t.detach().to("cpu").double().ceil().long() - 1).clamp(min=0)
        return self.log_alpha_bar[low + 1] - self.log_alpha_bar[low]


def log_snr(log_alpha_bar: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(alpha_bar / (1 - alpha_bar)) from log_alpha_bar, without cancellation at either end."""
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def log_alpha_bar_at_log_snr(log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of `log_snr`: alpha_bar = sigmoid(log_snr). Finite wherever log_snr is, above or below."""
    return torch.nn.functional.logsigmoid(log_snr)


def _linspace(start: float, end: float, num: int) -> Tensor:
    return torch.linspace(start, end, num, dtype=torch.float64, device="cpu")


def _factor(num_steps: int, largest: float, rescale_betas: bool) -> float:
    """1000 / T if the betas are to be rescaled, so that any T adds the same noise in all; else 1.

    Raises:
        ValueError: if that makes the largest beta 1 or more.
    """
    if not rescale_betas:
        return 1.0
    # a beta that is 1 but for rounding counts as 1
    least = int(1000 * largest * (1 + 1e-12)) + 1
    if num_steps < least:
        raise ValueError(f"rescale_betas makes a beta of {largest * 1000 / num_steps:.3g}: use at least {least} steps")
    return 1000 / num_steps


def _ends(num_steps: int, beta_start: float, beta_end: float, rescale_betas: bool) -> tuple[float, float]:
    """The first and last beta, rescaled if that is asked for."""
    factor = _factor(num_steps, max(beta_start, beta_end), rescale_betas)
    return beta_start * factor, beta_end * factor


def linear(
    num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale_betas: bool = False
) -> NoiseSchedule:
    """Ho et al. 2020, section 4: beta grows linearly, from 1e-4 to 0.02."""
    return NoiseSchedule.from_beta(_linspace(*_ends(num_steps, beta_start, beta_end, rescale_betas), num_steps))


def scaled_linear(
    num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale_betas: bool = False
) -> NoiseSchedule:
    """sqrt(beta) grows linearly: latent diffusion's `linear`, the original code's `quad`."""
    start, end = _ends(num_steps, beta_start, beta_end, rescale_betas)
    return NoiseSchedule.from_beta(_linspace(start**0.5, end**0.5, num_steps) ** 2)


def sqrt(
    num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale_betas: bool = False
) -> NoiseSchedule:
    """beta^2 grows linearly: latent diffusion's `sqrt`, which takes the root of the linear betas."""
    beta = _linspace(beta_start, beta_end, num_steps) ** 0.5
    # its ends are the roots of beta_start and beta_end: the factor belongs to the betas themselves
    return NoiseSchedule.from_beta(beta * _factor(num_steps, beta.max().item(), rescale_betas))


def sigmoid(
    num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale_betas: bool = False
) -> NoiseSchedule:
    """Beta follows a logistic curve over +-6 from beta_start to beta_end, as in diffusers."""
    start, end = _ends(num_steps, beta_start, beta_end, rescale_betas)
    return NoiseSchedule.from_beta(torch.sigmoid(_linspace(-6.0, 6.0, num_steps)) * (end - start) + start)


def cosine(num_steps: int, offset: float = 0.008, max_beta: float = 0.999, min_beta: float = 0.0) -> NoiseSchedule:
    """Nichol and Dhariwal 2021, Eq. 17: alpha_bar follows a squared cosine; betas are cut at `max_beta`."""
    u = (_linspace(0.0, 1.0, num_steps + 1) + offset) / (1 + offset)
    alpha_bar = torch.cos(u * (math.pi / 2)) ** 2
    return NoiseSchedule.from_beta((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(min_beta, max_beta))


def sigmoid_alpha_bar(num_steps: int, max_beta: float = 0.999) -> NoiseSchedule:
    """Jabri et al. 2023, Fig. 8: alpha_bar follows the logistic curve from -3 to 3; betas are cut at `max_beta`."""
    curve = torch.sigmoid(-_linspace(-3.0, 3.0, num_steps + 1))
    alpha_bar = (curve - curve[-1]) / (curve[0] - curve[-1])
    return NoiseSchedule.from_beta((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0.0, max_beta))


SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sqrt": sqrt,
    "sigmoid": sigmoid,
    "sigmoid_alpha_bar": sigmoid_alpha_bar,
}
