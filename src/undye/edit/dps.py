"""DPS: Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems"."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.samplers import Ancestral, DenoiserLike, Noise


def dps(
    denoiser: DenoiserLike,
    y: Tensor,
    measure: Callable[[Tensor], Tensor],
    x_T: Float[Tensor, "b c h w"],
    grid: Real[Tensor, " n"],
    noise: Noise,
    scale: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """A sample that comes near to a measurement: Algorithm 1, on any grid.

    Each step is one of ancestral sampling, then goes down the gradient, through the network, of the distance
    |y - A(x_0)| between the measurement and that of the predicted x_0: x_s - scale * gradient with respect to x_t. That
    is the paper's step size, inversely proportional to the distance, for its square. Needs memory for the network's
    gradients.

    Args:
        denoiser: the model.
        y: the measurement, a row for each image.
        measure: A, differentiable by torch, for a batch of images in [-1, 1].
        x_T: standard normal.
        grid: falling times from T to 0.
        noise: source of standard normal draws.
        scale: the paper's zeta'. Too small and the measurement is not met, too large and the image breaks.
    """
    x = x_T
    for k in range(len(grid) - 1):
        with torch.enable_grad():
            x_t = x.detach().requires_grad_()
            # the first step of the rest of the grid; the generator is dropped then
            step = next(iter(Ancestral().steps(denoiser, x_t, grid[k:], noise)))
            distance = (y - measure(step.x_0)).flatten(1).norm(dim=1)
            (gradient,) = torch.autograd.grad(distance.sum(), x_t)
        # where the measurement is met exactly the distance has no slope, which autograd knows as a zero
        x = (step.x - scale * gradient).detach()
    return x
