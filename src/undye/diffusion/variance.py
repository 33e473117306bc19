"""The variance of the reverse step p(x_s | x_t).

fixed_large is the forward variance between the two times and fixed_small the posterior's (Ho et al. 2020, section 3.2);
learned_range lies between them on a log scale, at a fraction that the network gives (Nichol and Dhariwal 2021, Eq. 15).
"""

from jaxtyping import Float, Float64, Real
from torch import Tensor

from undye.diffusion.schedule import NoiseSchedule

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


def log_var_bounds(
    schedule: NoiseSchedule, t: Real[Tensor, " b"], s: Real[Tensor, " b"], before: Real[Tensor, " b"] | None = None
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
    """(log posterior variance, log forward variance) of the step t -> s, float64 on the CPU.

    The posterior variance vanishes at s = 0. There it is replaced by that of the grid's preceding step,
    `before` -> t (on the full grid 2 -> 1, as the original code); `before` defaults to a step of the same length.
    Where the grid has no preceding step (t = T), both are the forward variance.
    """
    if before is None:
        before = (2 * t - s).clamp(max=schedule.num_steps)
    log_ab_t, log_ab_s = schedule.log_alpha_bar_at(t), schedule.log_alpha_bar_at(s)
    log_forward = (-(log_ab_t - log_ab_s).expm1()).log()
    log_posterior = log_forward + _log_noise(log_ab_s) - _log_noise(log_ab_t)
    log_ab_before = schedule.log_alpha_bar_at(before)
    log_preceding = (-(log_ab_before - log_ab_t).expm1()).log() + _log_noise(log_ab_t) - _log_noise(log_ab_before)
    has_preceding = before.cpu() > t.cpu()
    edge = log_preceding.where(has_preceding, log_forward)
    at_zero = s.cpu() == 0
    return edge.where(at_zero, log_posterior), edge.where(at_zero & has_preceding, log_forward)


def log_var(
    kind: str,
    schedule: NoiseSchedule,
    t: Real[Tensor, " b"],
    s: Real[Tensor, " b"],
    fraction: Float[Tensor, "b c h w"] | None = None,
    before: Real[Tensor, " b"] | None = None,
) -> Tensor:
    """Log of the reverse variance of the step t -> s: (B,) float64, or (B, C, H, W) for learned_range.

    Args:
        kind: one of `VARIANCES`.
        schedule: the noise schedule.
        t: the later times.
        s: the earlier times, s < t.
        fraction: for learned_range, the network's interpolation in [0, 1]: 0 is the posterior, 1 the forward variance.
        before: the time that precedes t on the grid, see `log_var_bounds`.

    Raises:
        ValueError: for an unknown kind, or learned_range without a fraction.
    """
    small, large = log_var_bounds(schedule, t, s, before)
    if kind == "fixed_small":
        return small
    if kind == "fixed_large":
        return large
    if kind != "learned_range":
        raise ValueError(f"unknown variance {kind!r}: choose from {', '.join(VARIANCES)}")
    if fraction is None:
        raise ValueError("learned_range needs the network's variance fraction")
    # only the lower end takes the edge rule: at s = 0 the upper end is the forward variance itself
    log_forward = (-(schedule.log_alpha_bar_at(t) - schedule.log_alpha_bar_at(s)).expm1()).log()
    low = small.to(fraction.dtype).to(fraction.device).view(-1, 1, 1, 1)
    high = log_forward.to(fraction.dtype).to(fraction.device).view(-1, 1, 1, 1)
    return low + fraction * (high - low)


def _log_noise(log_alpha_bar: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
    return (-log_alpha_bar.expm1()).log()
