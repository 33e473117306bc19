"""The terms of the variational bound (Ho et al. 2020, Eq. 5), in nats for each dimension (each number of an image).

L = L_T + sum over t of L_{t-1} + L_0: the prior term, a KL divergence between Gaussians for each reverse step, and what
the decoder p(x_0 | x_1) costs. All of it holds for any grid of times T > ... > s > 0, not only for neighbours.

Nothing here is the difference of two large numbers: the KL of a step is written in the error of x_0, and the decoder in
logarithms of the normal distribution on the side of the mean where they do not round to 1.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Float64, Real
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.special import erfcx

from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.variance import log_posterior_var

BITS_PER_NAT = 1 / math.log(2)

LEVELS = 256
"""Values of a pixel: level k stands at 2 k / 255 - 1."""


def gaussian_kl(
    mean_1: Float[Tensor, "*#shape"],
    log_var_1: Float[Tensor, "*#shape"],
    mean_2: Float[Tensor, "*#shape"],
    log_var_2: Float[Tensor, "*#shape"],
) -> Float[Tensor, "..."]:
    """KL(N(mean_1, var_1) || N(mean_2, var_2)) in nats, number by number."""
    ratio = log_var_1 - log_var_2
    return 0.5 * (ratio.expm1() - ratio + (mean_1 - mean_2).square() * (-log_var_2).exp())


def prior_kl(log_alpha_bar_T: Float64[Tensor, " b"], second_moment: Float[Tensor, " b"]) -> Float64[Tensor, " b"]:
    """L_T for each dimension in nats: KL(q(x_T | x_0) || N(0, I)), averaged over an image's numbers.

    Args:
        log_alpha_bar_T: at the time where sampling starts.
        second_moment: mean of x_0^2 over the numbers of each image.
    """
    alpha_bar = log_alpha_bar_T.exp()
    # -log(1 - a) - a: what is left of the variance's share; a series where the difference would cancel
    series = sum((alpha_bar**k / k for k in range(2, 8)), torch.zeros_like(alpha_bar))
    rest = torch.where(alpha_bar < 1e-2, series, -(-log_alpha_bar_T.expm1()).log() - alpha_bar)
    return 0.5 * (alpha_bar * second_moment.cpu().double() + rest)


def step_coefficients(
    schedule: NoiseSchedule, t: Real[Tensor, " b"], s: Real[Tensor, " b"]
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
    """(weight of x_0 in the posterior mean, log posterior variance) of a step t -> s > 0; float64 on the CPU."""
    log_ab_t, log_ab_s = schedule.log_alpha_bar_at(t), schedule.log_alpha_bar_at(s)
    weight = (0.5 * log_ab_s).exp() * (log_ab_t - log_ab_s).expm1() / log_ab_t.expm1()
    return weight, log_posterior_var(schedule, t, s)


def step_kl(
    schedule: NoiseSchedule,
    x_0_error: Float[Tensor, "b c h w"],
    t: Real[Tensor, " b"],
    s: Real[Tensor, " b"],
    log_var: Tensor,
) -> Float[Tensor, "b c h w"]:
    """L_{t-1} for each number in nats: KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s > 0.

    Both means are those of the posterior (Eq. 7), one with x_0 and one with the prediction in its place; so they
    differ by the weight of x_0 times the error of the prediction, and nothing cancels.

    Args:
        schedule: the noise schedule.
        x_0_error: the true x_0 minus the predicted one.
        t: the later times.
        s: the earlier times, 0 < s < t.
        log_var: log of the reverse variance: (B,) or as large as the images.
    """
    weight, log_posterior = step_coefficients(schedule, t, s)
    if log_var.ndim == 1:
        # both are known to float64: their difference is taken there
        ratio = like(log_posterior - log_var, x_0_error)
        precision = like((2 * weight.log() - log_var).exp(), x_0_error)
    else:
        ratio = like(log_posterior, x_0_error) - log_var
        precision = (2 * like(weight.log(), x_0_error) - log_var).exp()
    return 0.5 * (ratio.expm1() - ratio + precision * x_0_error.square())


def discretised_gaussian_nll(
    x_0: Float[Tensor, "*#shape"], mean: Float[Tensor, "*#shape"], log_var: Float[Tensor, "*#shape"]
) -> Float[Tensor, "..."]:
    """L_0 for each number in nats: -log of the mass that N(mean, var) gives to the pixel's bin, Ho et al. 2020, Eq. 13.

    The bin of a level reaches half a level to each side; those of the lowest and the highest go on to infinity, so the
    256 masses sum to 1. There is no floor: a bin a thousand standard deviations away has its true, large cost.

    Args:
        x_0: pixels at the 256 levels of [-1, 1].
        mean: mean of the decoder.
        log_var: log of its variance.
    """
    half = 1 / (LEVELS - 1)
    precision = (-0.5 * log_var).exp()
    low, high = (x_0 - half - mean) * precision, (x_0 + half - mean) * precision
    at_bottom, at_top = x_0 < -1 + half, x_0 > 1 - half
    # mirror bins above the mean to below it, where the distribution function does not round to 1
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    open_low, open_high = torch.where(mirror, at_top, at_bottom), torch.where(mirror, at_bottom, at_top)
    middle, width = 0.5 * (low + high), (2 * half * precision).expand_as(low)
    narrow, tilt = (1e-3, 0.02) if low.dtype == torch.float64 else (0.02, 0.3)
    narrow = (width < narrow) & (middle.abs() * width < tilt) & ~open_low & ~open_high
    # gradients go through both sides of a `where`, so the side that is not taken is made of harmless numbers
    log_high = torch.where(open_high | narrow, 0.0, log_ndtr(torch.where(open_high | narrow, 0.0, high)))
    difference = log_ndtr(torch.where(open_low | narrow, -1.0, low)) - log_high
    log_mass = log_high + torch.where(open_low, 0.0, log1mexp(torch.where(open_low | narrow, -1.0, difference)))
    return -torch.where(narrow, _log_narrow(torch.where(narrow, middle, 0.0), width), log_mass)


def _log_narrow(middle: Tensor, width: Tensor) -> Tensor:
    """Log mass of a bin much narrower than the standard deviation, where both its ends have the same log_ndtr.

    The density in the middle times the width, with the first terms of the series in the width.
    """
    tilt = (0.5 * middle * width).square()
    return (
        width.log() - 0.5 * (middle.square() + math.log(2 * math.pi)) + tilt / 6 - tilt.square() / 180 - width**2 / 24
    )


def gaussian_nll(
    x_0: Float[Tensor, "*#shape"], mean: Float[Tensor, "*#shape"], log_var: Float[Tensor, "*#shape"]
) -> Float[Tensor, "..."]:
    """L_0 of continuous data for each number in nats: -log N(x_0; mean, var). A density, so it may be negative."""
    return 0.5 * ((x_0 - mean).square() * (-log_var).exp() + log_var + math.log(2 * math.pi))


class _LogNdtr(torch.autograd.Function):
    """Log of the normal distribution function, with a derivative that survives its tail.

    torch's own is exp(-x^2 / 2 - log_ndtr(x)), the exponential of a difference of two large numbers.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.special.log_ndtr(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * math.sqrt(2 / math.pi) / erfcx(-x * math.sqrt(0.5))


def log_ndtr(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Log of the standard normal distribution function."""
    return _LogNdtr.apply(x)


def log1mexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 - exp(x)) for x < 0, without cancellation at either end (Maechler 2012)."""
    near = x > -math.log(2)
    return torch.where(near, (-torch.where(near, x, -1.0).expm1()).log(), (-torch.where(near, -1.0, x).exp()).log1p())
