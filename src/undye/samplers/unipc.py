"""UniPC: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models"."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import expm1, factorial
from typing import ClassVar

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.process import times
from undye.samplers.base import DenoiserLike, Levels, Noise, Sampler, Step, pairs
from undye.samplers.multistep import Seen, first_order, orders, slopes


@dataclass(frozen=True)
class UniPC(Sampler):
    """A multistep predictor, and a corrector that costs no network call: Algorithm 1, data prediction, B_2.

    The answer at s, which the next step needs anyway, is first used to take the step to s again, one order higher. The
    network is not asked again at the corrected point. A step's `x` is the predicted state at s; the corrected one
    is where the next step starts. The last step, to s = 0, is a prediction of order 1.

    Attributes:
        order: of the predictor, 1 to 3; the corrector's is one more. One for each step is taken as it is, as far as
            there are predictions; a single one falls towards the end of the grid.
    """

    name: ClassVar[str] = "unipc"
    default_steps: ClassVar[int | None] = 20
    order: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        """Check the order."""
        if not set(self.order if isinstance(self.order, tuple) else [self.order]) <= {1, 2, 3}:
            raise ValueError(f"order must be 1, 2 or 3, got {self.order}")

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        walk = pairs(grid, denoiser.schedule)
        if isinstance(self.order, tuple) and len(self.order) != len(walk):
            raise ValueError(f"{len(self.order)} orders do not fit a grid of {len(walk)} steps")
        x, seen, at = x_T, list[Seen](), Levels.of(denoiser.schedule, grid)
        start, before = x_T, 0  # where the last step began, and its order
        for index, ((t, s), order) in enumerate(zip(walk, orders(self.order, len(walk)), strict=True)):
            _, x_0 = self.predict_x_0(denoiser, x, times(t, x))
            if index:
                signal, noise_from, noise_to = at.signal[index], at.noise[index - 1], at.noise[index]
                h = at.lam[index] - at.lam[index - 1]
                x = first_order(start, seen[-1].x_0, signal, noise_from, noise_to, h)
                x = x + signal * correction(h, seen, before, x_0)
            seen = [*seen[-2:], Seen(at.lam[index], x_0)]
            start, before = x, order
            h = at.lam[index + 1] - at.lam[index]
            x = first_order(start, x_0, at.signal[index + 1], at.noise[index], at.noise[index + 1], h)
            if order > 1:
                x = x + at.signal[index + 1] * correction(h, seen, order)
            yield Step(index, t, s, x, x_0)


def correction(h: float, seen: list[Seen], order: int, x_0: Tensor | None = None) -> Tensor:
    """What x_0's change over the step adds to x_s / signal_s: Eqs. 3 and 5; `x_0` at s makes it the corrector's."""
    r, slope = slopes(h, seen, order)
    if x_0 is not None:
        r, slope = [*r, 1.0], [*slope, x_0 - seen[-1].x_0]
    # with one unknown the paper takes 1/2, the limit for short steps, and not the solution: Zhao et al., appendix F
    rho = [0.5] if len(r) == 1 else weights(h, r)
    return sum((rho_k * slope_k for rho_k, slope_k in zip(rho, slope, strict=True)), torch.zeros(())) * -expm1(-h)


def weights(h: float, r: list[float]) -> list[float]:
    """The weights rho with which the slopes match the integral in every power of h: R rho = b of Theorem 3.1, B_2."""
    # phi_k(-h) = sum of (-h)^j / (j + k)!, from phi_{k+1}(z) = (phi_k(z) - 1 / k!) / z
    phi, right = expm1(-h) / -h, []
    for k in range(1, len(r) + 1):
        phi = (phi - 1 / factorial(k)) / -h
        right.append(h * phi * factorial(k) / -expm1(-h))
    left = torch.tensor([[r_k**power for r_k in r] for power in range(len(r))], dtype=torch.float64)
    return torch.linalg.solve(left, torch.tensor(right, dtype=torch.float64)).tolist()
