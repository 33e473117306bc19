"""What a sampler is: a frozen set of hyperparameters that turns noise into images, one step of a grid at a time."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Real
from torch import Tensor

from undye.config import ModelConfig
from undye.denoiser import Denoised
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule, log_snr
from undye.diffusion.score import sigma_at

PURE_NOISE = 1e3
"""The sigma above which x is noise and nothing else. The paper's schedule ends at 160, the cosine one at 20,000, one of
zero terminal SNR at 1e10: solvers that step in sigma itself cannot start there."""


@runtime_checkable
class DenoiserLike(Protocol):
    """What samplers ask of a model. `undye.Denoiser` is one; so are the oracles of `undye.testing`."""

    config: ModelConfig
    schedule: NoiseSchedule
    process: GaussianProcess

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Denoised:
        """x_0 and eps in x_t, (B, C, H, W), at times t, (B,)."""
        ...


Noise = Callable[[Tensor], Tensor]
"""Called with a tensor, gives standard normal noise of its shape, dtype and device: see `SampleNoise`."""


@dataclass(frozen=True)
class Step:
    """One step t -> s taken. x: the new state at s; x_0: the (clipped) prediction made at t. Both (B, C, H, W)."""

    index: int
    t: float
    s: float
    x: Tensor
    x_0: Tensor


@dataclass(frozen=True)
class Sampler(ABC):
    """Base of the samplers.

    Attributes:
        clip: clip the predicted x_0 to [-1, 1] before each step; None: as the model's config says.
    """

    name: ClassVar[str]
    default_steps: ClassVar[int | None] = 50
    """Network calls where none are asked for; None: all T."""
    clip: bool | None = None

    @abstractmethod
    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """Walk x_T down the grid.

        Args:
            denoiser: the model.
            x_T: the state at time grid[0]; standard normal where that is T.
            grid: decreasing times, the last of them 0: see `undye.samplers.grid`.
            noise: source of standard normal draws.

        Yields:
            one Step for each pair of neighbours in the grid; the last one's `x` is the sample.
        """

    def calls(self, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> int | None:
        """Network calls that walking down this grid takes; None where only the walk itself can tell."""
        return len(grid) - 1

    def predict_x_0(self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor) -> tuple[Denoised, Tensor]:
        """The model's answer at x_t, and its x_0 clipped if that is asked for."""
        out = denoiser(x_t, t)
        clip = denoiser.config.clip_x_0 if self.clip is None else self.clip
        return out, out.x_0.clamp(-1, 1) if clip else out.x_0


@dataclass(frozen=True)
class Levels:
    """How much signal and noise there is at each time of a grid, as Python's float64 numbers.

    Attributes:
        signal: sqrt(alpha_bar).
        noise: sqrt(1 - alpha_bar).
        lam: lambda = log(signal / noise), half the log-SNR (Lu et al. 2022); infinite at t = 0.
        sigma: the noise relative to the signal, exp(-lam) (Karras et al. 2022); infinite where no number is as large.
    """

    signal: list[float]
    noise: list[float]
    lam: list[float]
    sigma: list[float]

    @classmethod
    def of(cls, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> "Levels":
        """The levels of the grid's times."""
        log_alpha_bar = schedule.log_alpha_bar_at(grid)
        lam = [0.5 * x if x < inf else inf for x in log_snr(log_alpha_bar).tolist()]
        signal, noise = (0.5 * log_alpha_bar).exp(), (-log_alpha_bar.expm1()).sqrt()
        return cls(signal.tolist(), noise.tolist(), lam, sigma_at(log_alpha_bar).tolist())


def pairs(grid: Real[Tensor, " n"], schedule: NoiseSchedule) -> list[tuple[float, float]]:
    """The grid's neighbours (t, s).

    Raises:
        ValueError: if the grid does not fall strictly from at most T to 0.
    """
    times = [float(t) for t in grid]
    if len(times) < 2 or times[-1] != 0 or times[0] > schedule.num_steps or not bool((grid.diff() < 0).all()):
        raise ValueError(f"a grid must fall strictly from at most T = {schedule.num_steps} to 0, got {times}")
    return list(pairwise(times))


def final(steps: Iterator[Step]) -> Float[Tensor, "b c h w"]:
    """Run a sampler to its end and return the sample."""
    with torch.no_grad():
        return deque(steps, maxlen=1).pop().x
