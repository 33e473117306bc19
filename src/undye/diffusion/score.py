"""The score, sigma space and the probability-flow ODE: the same model in the words of score-based papers.

Three ways to say where x_t is: the paper's own x = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps; the scaled
y = x / sqrt(alpha_bar) = x_0 + sigma eps of variance-exploding models (sigma^2 = 1 / SNR; Karras et al. 2022); and the
time itself. A network that knows eps knows the score in each of them.
"""

import torch
from jaxtyping import Float, Float64, Real
from torch import Tensor

from undye.diffusion.prediction import signal_and_noise
from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule, log_snr


def score_from_eps(eps: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Grad log q(x_t) = -eps / sqrt(1 - alpha_bar), for eps = E[eps | x_t]: Song et al. 2021, section 3; Tweedie."""
    return -eps / signal_and_noise(log_alpha_bar, eps)[1]


def eps_from_score(score: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Eps = -sqrt(1 - alpha_bar) score."""
    return -signal_and_noise(log_alpha_bar, score)[1] * score


def sigma_at(log_alpha_bar: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Sigma = sqrt((1 - alpha_bar) / alpha_bar), the noise relative to the signal; 0 at t = 0."""
    return (-0.5 * log_snr(log_alpha_bar)).exp()


def log_alpha_bar_at_sigma(sigma: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """The inverse of `sigma_at`: alpha_bar = 1 / (1 + sigma^2). With `NoiseSchedule.time_at` it gives the time."""
    # above 1 with sigma^2 taken out, which may be too large for a number where sigma is not
    large = 2 * sigma.log() + sigma.reciprocal().square().log1p()
    return -torch.where(sigma > 1, large, sigma.square().log1p())


def to_sigma_space(x_t: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Y = x_t / sqrt(alpha_bar) = x_0 + sigma eps."""
    return x_t * like((-0.5 * log_alpha_bar).exp(), x_t)


def from_sigma_space(y: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """x_t = sqrt(alpha_bar) y."""
    return y * like((0.5 * log_alpha_bar).exp(), y)


def sigma_space_score(
    score: Float[Tensor, "b c h w"], log_alpha_bar: Float64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """The gradient of log p(y; sigma) by y, from that of log q(x_t): sqrt(alpha_bar) times it, -eps / sigma."""
    return score * like((0.5 * log_alpha_bar).exp(), score)


def probability_flow(
    x_t: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], schedule: NoiseSchedule, t: Real[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """dx/dt of the ODE with the marginals of the process: Song et al. 2021, Eq. 13, with f = -beta x / 2, g^2 = beta.

    -beta(t) / 2 (x + score), where -beta(t) = d log alpha_bar / dt. In sigma space it is dy/dsigma = eps, which is
    smooth, while beta(t) jumps at integers: solve this one from integer to integer.
    """
    score = score_from_eps(eps, schedule.log_alpha_bar_at(t))
    return like(0.5 * schedule.drift_at(t), x_t) * (x_t + score)
