"""DDIM inversion: the x_T from which DDIM makes a given image. Song et al. 2021, DDIM, section 4.3."""

from collections.abc import Iterator
from math import acos, asin, cos, sin

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.prediction import signal_and_noise
from undye.diffusion.process import times
from undye.errors import UserError
from undye.samplers.base import DenoiserLike, Step, pairs


def invert(
    denoiser: DenoiserLike, x_0: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], iterations: int = 0
) -> Float[Tensor, "b c h w"]:
    """The x_T that DDIM with eta = 0 and no clipping turns into x_0 on the same grid.

    Args:
        denoiser: the model; a `Conditioned` one inverts with its label (and weight 1, or it goes astray).
        x_0: the images, in [-1, 1].
        grid: the falling grid that sampling will use, T to 0.
        iterations: fixed-point corrections of each step. 0 leaves an error of first order in the length of a step;
            each one more solves the step more nearly, at a network call each. They converge where steps are short:
            from some 20 steps on.

    Raises:
        UserError: for a negative number of iterations.
    """
    x = x_0
    with torch.no_grad():
        for step in inversion_steps(denoiser, x_0, grid, iterations):
            x = step.x
    return x


def inversion_steps(
    denoiser: DenoiserLike, x_0: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], iterations: int = 0
) -> Iterator[Step]:
    """The states on the way up: for each pair s < t of the grid, the first with s = 0, a Step whose `x` is at t.

    A DDIM step down is a rotation by the angle between the levels (Salimans and Ho 2022, appendix D): x_s = cos(d)
    x_t - sin(d) v(x_t, t), where v = signal eps - noise x_0. So x_t solves x_t = (x_s + sin(d) v(x_t, t)) / cos(d),
    and v is the prediction of which this is a contraction at every noise level. The first guess of x_t is x_s.
    """
    if iterations < 0:
        raise UserError(f"the number of iterations must not be negative, got {iterations}")
    x = x_0
    schedule = denoiser.schedule
    for index, (t, s) in enumerate(reversed(pairs(grid, schedule))):
        t_ = times(t, x)
        log_ab_t, log_ab_s = schedule.log_alpha_bar_at(t_), schedule.log_alpha_bar_at(times(s, x))
        angle = _angle(log_ab_t[0].item()) - _angle(log_ab_s[0].item())
        a, b = signal_and_noise(log_ab_t, x)
        out = denoiser(x, t_)
        guess = (x + sin(angle) * (a * out.eps - b * out.x_0)) / cos(angle)
        for _ in range(iterations):
            out = denoiser(guess, t_)
            guess = (x + sin(angle) * (a * out.eps - b * out.x_0)) / cos(angle)
        x = guess
        yield Step(index, t, s, x, out.x_0)


def _angle(log_alpha_bar: float) -> float:
    """The phi with signal cos(phi) and noise sin(phi), to full precision at both ends."""
    level = torch.tensor(log_alpha_bar, dtype=torch.float64)
    a, b = (0.5 * level).exp().item(), (-level.expm1()).sqrt().item()
    return asin(b) if b < a else acos(a)
