"""What a schedule leaves of the data at T: sampling starts from a standard normal and never sees it.

Not T itself counts but alpha_bar_T: 200 steps of the paper's betas leave 13 % of the signal's power, 200 steps of the
same betas rescaled by 1000 / T leave nothing.
"""

import math
from dataclasses import dataclass

from undye.diffusion.likelihood import prior_kl
from undye.diffusion.schedule import NoiseSchedule

SIGNAL_LIMIT = 5e-4
"""L_T in bits/dim above which signal is said to be left: the paper's schedule has 7e-6, Stable Diffusion's 8.5e-4."""

IMAGE_SECOND_MOMENT = 0.25
"""Mean square of the pixels in [-1, 1] where no data are at hand; that of CIFAR-10 is about this."""


class SignalLeftWarning(UserWarning):
    """The schedule leaves signal at T, so that samples start from another distribution than training saw there."""


@dataclass(frozen=True)
class Terminal:
    """The end of a schedule.

    Attributes:
        alpha_bar: alpha_bar_T, the share of the data's power that is left.
        log_snr: log(alpha_bar_T / (1 - alpha_bar_T)).
        prior_bits_per_dim: L_T for data of the given mean square, in bits/dim.
    """

    alpha_bar: float
    log_snr: float
    prior_bits_per_dim: float

    @property
    def leaves_signal(self) -> bool:
        """Whether that is more than a model can be expected not to notice."""
        return self.prior_bits_per_dim > SIGNAL_LIMIT


def terminal(schedule: NoiseSchedule, second_moment: float = IMAGE_SECOND_MOMENT) -> Terminal:
    """Measure what a schedule leaves at T.

    Args:
        schedule: the noise schedule.
        second_moment: mean square of the data's numbers, E[x_0^2].
    """
    log_alpha_bar = schedule.log_alpha_bar[-1:]
    nats = prior_kl(log_alpha_bar, log_alpha_bar.new_tensor([second_moment]))
    return Terminal(
        alpha_bar=log_alpha_bar.exp().item(),
        log_snr=schedule.log_snr[-1].item(),
        prior_bits_per_dim=nats.item() / math.log(2),
    )
