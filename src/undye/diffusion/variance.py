"""The variance of the reverse step p(x_s | x_t).

fixed_large is the forward variance between the two times and fixed_small the posterior's (Ho et al. 2020, section 3.2);
learned_range lies between them on a log scale, at a fraction that the network gives for each pixel (Nichol and Dhariwal
2021, Eq. 15; GLIDE); learned is the learned diagonal of Ho et al.'s Table 2, here as the network's offset, for each
pixel, to the log of the forward variance: any diagonal can be said so, a network that says 0 is fixed_large, and an
offset learned on neighbouring times carries over to other steps.
"""

from jaxtyping import Float, Float64, Real
from torch import Tensor

from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule

VARIANCES = ("fixed_small", "fixed_large", "learned_range", "learned")
LEARNED = ("learned_range", "learned")
"""Those that the network has a say in: it gives a number for each pixel beside its prediction."""


def log_forward_var(schedule: NoiseSchedule, t: Real[Tensor, " b"], s: Real[Tensor, " b"]) -> Float64[Tensor, " b"]:
    """Log variance of q(x_t | x_s): log beta_t where s = t - 1. Float64 on the CPU."""
    return (-(schedule.log_alpha_bar_at(t) - schedule.log_alpha_bar_at(s)).expm1()).log()


def log_posterior_var(schedule: NoiseSchedule, t: Real[Tensor, " b"], s: Real[Tensor, " b"]) -> Float64[Tensor, " b"]:
    """Log variance of q(x_s | x_t, x_0), Ho et al. 2020, Eq. 7; -inf at s = 0. Float64 on the CPU."""
    log_ab_t, log_ab_s = schedule.log_alpha_bar_at(t), schedule.log_alpha_bar_at(s)
    return log_forward_var(schedule, t, s) + _log_noise(log_ab_s) - _log_noise(log_ab_t)


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
    log_forward, log_posterior = log_forward_var(schedule, t, s), log_posterior_var(schedule, t, s)
    has_preceding = before.cpu() > t.cpu()
    log_preceding = log_posterior_var(schedule, before, t)
    edge = log_preceding.where(has_preceding, log_forward)
    at_zero = s.cpu() == 0
    return edge.where(at_zero, log_posterior), edge.where(at_zero & has_preceding, log_forward)


def log_var(
    kind: str,
    schedule: NoiseSchedule,
    t: Real[Tensor, " b"],
    s: Real[Tensor, " b"],
    learned: Float[Tensor, "b c h w"] | None = None,
    before: Real[Tensor, " b"] | None = None,
) -> Tensor:
    """Log of the reverse variance of the step t -> s: (B,) float64, or (B, C, H, W) where it is learned.

    Args:
        kind: one of `VARIANCES`.
        schedule: the noise schedule.
        t: the later times.
        s: the earlier times, s < t.
        learned: what the network says of it. learned_range: a fraction in [0, 1], 0 is the posterior variance, 1 the
            forward variance. learned: the offset to the log of the forward variance.
        before: the time that precedes t on the grid, see `log_var_bounds`.

    Raises:
        ValueError: for an unknown kind, or a learned one without the network's word.
    """
    if kind not in VARIANCES:
        raise ValueError(f"unknown variance {kind!r}: choose from {', '.join(VARIANCES)}")
    if kind in LEARNED and learned is None:
        raise ValueError(f"{kind} needs what the network says of the variance: Denoised.learned_variance")
    if kind == "learned" and learned is not None:
        return like(log_forward_var(schedule, t, s), learned) + learned
    small, large = log_var_bounds(schedule, t, s, before)
    if kind == "learned_range" and learned is not None:
        # only the lower end takes the edge rule: at s = 0 the upper end is the forward variance itself
        low, high = like(small, learned), like(log_forward_var(schedule, t, s), learned)
        return low + learned * (high - low)
    return small if kind == "fixed_small" else large


def _log_noise(log_alpha_bar: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
    return (-log_alpha_bar.expm1()).log()
