"""Loss weights: how much the squared error at each time counts.

Each is stated for the error of eps, as the papers do or as follows from them, and carried over to what the network
predicts: at a given x_t the errors of eps, x_0, v, mu and the score are multiples of each other, so that (but for
`simple`) a weighting means the same whatever is predicted.

| name    | weight of |eps - eps_hat|^2              | source |
|---------|------------------------------------------|--------|
| simple  | 1 for the predicted quantity, whatever it is | Ho et al. 2020, Eq. 14 (where that is eps) |
| vlb     | T beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) | Ho et al. 2020, Eq. 12; times T: the mean over t is the sum |
| snr     | 1 (that is SNR for x_0)                  | Salimans and Ho 2022, section 4 |
| min_snr | min(SNR, gamma) / SNR (that is min(SNR, gamma) for x_0) | Hang et al. 2023 |
| p2      | 1 / (k + SNR)^gamma                      | Choi et al. 2022, Eq. 8 |
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Real
from torch import Tensor

from undye.diffusion import variance
from undye.diffusion.prediction import Prediction
from undye.diffusion.schedule import NoiseSchedule, log_snr


@dataclass(frozen=True)
class Weighting(ABC):
    """A loss weight for each time."""

    name: ClassVar[str]

    @abstractmethod
    def log_eps_weight(self, schedule: NoiseSchedule, t: Real[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """Log of the weight of |eps - eps_hat|^2 at t."""

    def weight(self, schedule: NoiseSchedule, prediction: Prediction, t: Real[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """The factor of the squared error of the predicted quantity; float64 on the CPU."""
        return (self.log_eps_weight(schedule, t) + 2 * prediction.log_error_ratio(schedule, t)).exp()


@dataclass(frozen=True)
class Simple(Weighting):
    """Every time counts alike, for whatever the network predicts. For the score take `snr`, which is its sigma^2."""

    name: ClassVar[str] = "simple"

    def log_eps_weight(self, schedule, t):
        """That of a network that predicts eps."""
        return torch.zeros(len(t), dtype=torch.float64)

    def weight(self, schedule, prediction, t):
        """1."""
        return torch.ones(len(t), dtype=torch.float64)


@dataclass(frozen=True)
class VLB(Weighting):
    """What the variational bound says, for a fixed variance: the mean over t is the bound's sum, in nats per dimension.

    Without what does not depend on the network (L_T, and where the variances differ the logarithms), and with the last
    step, t = 1, treated as the others.

    Attributes:
        variance: fixed_small or fixed_large.
    """

    name: ClassVar[str] = "vlb"
    variance: str = "fixed_large"

    def __post_init__(self) -> None:
        """Check the name of the variance."""
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ValueError(f"the vlb weighting is for fixed variances, not {self.variance!r}: use the vlb objective")

    def log_eps_weight(self, schedule, t):
        """log(T beta^2 / (2 sigma^2 alpha (1 - alpha_bar))), Eq. 12."""
        s = (t - 1).clamp(min=0)
        log_ab = schedule.log_alpha_bar_at(t)
        log_alpha = log_ab - schedule.log_alpha_bar_at(s)
        log_beta = variance.log_forward_var(schedule, t, s)
        log_var = variance.log_var(self.variance, schedule, t, s)
        terms = 2 * log_beta - log_var - log_alpha - (-log_ab.expm1()).log()
        return terms + torch.tensor(schedule.num_steps / 2, dtype=torch.float64).log()


@dataclass(frozen=True)
class SNR(Weighting):
    """The squared error of eps, for any prediction: SNR times that of x_0."""

    name: ClassVar[str] = "snr"

    def log_eps_weight(self, schedule, t):
        """0."""
        return torch.zeros(len(t), dtype=torch.float64)


@dataclass(frozen=True)
class MinSNR(Weighting):
    """The squared error of x_0 times min(SNR, gamma): early times count no more than their share."""

    name: ClassVar[str] = "min_snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        """Check gamma."""
        if not self.gamma > 0:
            raise ValueError(f"gamma of min_snr must be positive, got {self.gamma}")

    def log_eps_weight(self, schedule, t):
        """min(0, log gamma - log SNR)."""
        gap = torch.tensor(self.gamma, dtype=torch.float64).log() - log_snr(schedule.log_alpha_bar_at(t))
        return gap.clamp(max=0)


@dataclass(frozen=True)
class P2(Weighting):
    """Perception prioritised: the clean-up near the data, which the eye hardly sees, counts less."""

    name: ClassVar[str] = "p2"
    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        """Check gamma and k."""
        if not (self.gamma >= 0 and self.k > 0):
            raise ValueError(f"p2 needs gamma >= 0 and k > 0, got {self.gamma} and {self.k}")

    def log_eps_weight(self, schedule, t):
        """-gamma log(k + SNR)."""
        log_k = torch.tensor(self.k, dtype=torch.float64).log()
        return -self.gamma * torch.logaddexp(log_snr(schedule.log_alpha_bar_at(t)), log_k)


WEIGHTINGS: dict[str, type[Weighting]] = {cls.name: cls for cls in (Simple, VLB, SNR, MinSNR, P2)}
