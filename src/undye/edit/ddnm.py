"""DDNM: Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model"."""

from dataclasses import replace

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.denoiser import Denoised
from undye.diffusion.prediction import eps_from_x_0
from undye.edit.operators import Operator
from undye.edit.resampling import walk_down
from undye.samplers import DenoiserLike, Noise, Sampler

BOX_ROUNDS = 20
"""Projections in turn onto [-1, 1] and onto A x = y, at the end."""


class Consistent:
    """A model whose x_0 agrees with a measurement: for samplers it is a model like any other.

    Eq. 10: x_0 + A^+ (y - A x_0), the part of x_0 that A sees replaced by what was measured. eps is derived anew, so
    that both still explain x_t. x_0 is clipped before, as the model's config says, and not after: that would undo it.
    """

    def __init__(self, denoiser: DenoiserLike, operator: Operator, y: Tensor):
        self.denoiser, self.operator, self.y = denoiser, operator, y
        self.clip = denoiser.config.clip_x_0
        self.config = replace(denoiser.config, clip_x_0=False)
        self.schedule, self.process = denoiser.schedule, denoiser.process

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], /) -> Denoised:
        """The model's word, made consistent."""
        out = self.denoiser(x_t, t)
        x_0 = project(out.x_0.clamp(-1, 1) if self.clip else out.x_0, self.operator, self.y)
        return replace(out, x_0=x_0, eps=eps_from_x_0(x_0, x_t, self.schedule.log_alpha_bar_at(t)))


def project(x: Float[Tensor, "b c h w"], operator: Operator, y: Tensor) -> Float[Tensor, "b c h w"]:
    """The nearest image with A x = y."""
    return x + operator.pinv(y - operator.forward(x))


def ddnm(
    denoiser: DenoiserLike,
    y: Tensor,
    operator: Operator,
    x_T: Float[Tensor, "b c h w"],
    grid: Real[Tensor, " n"],
    noise: Noise,
    walk: list[int],
    sampler: Sampler,
) -> Float[Tensor, "b c h w"]:
    """A sample with A x = y, to rounding: Algorithm 2, time travel included.

    Args:
        denoiser: the model.
        y: the measurement.
        operator: A.
        x_T: standard normal.
        grid: falling times from T to 0.
        noise: source of standard normal draws.
        walk: from `resampled`, the way with its steps back.
        sampler: one whose steps need only the last state, and that ends in the x_0 that it was given.
    """
    return walk_down(Consistent(denoiser, operator, y), x_T, grid, walk, noise, sampler)


def into_box(x: Float[Tensor, "b c h w"], operator: Operator, y: Tensor) -> Float[Tensor, "b c h w"]:
    """An image within [-1, 1] with A x = y, near x.

    Alternating projections come near one, and a step towards the plain image, the shortest that will do, gets there.
    """
    for _ in range(BOX_ROUNDS):
        x = project(x.clamp(-1, 1), operator, y)
    plain = operator.plain(y)
    way = x - plain
    # how far from plain towards x the box lets each value go; where x is plain, as far as it likes
    room = (way.sign() - plain) / torch.where(way == 0, 1, way)
    return plain + operator.least(torch.where(way == 0, 1, room).clamp(0, 1)) * way
