"""Predictor-corrector sampling: Song et al. 2021, "Score-Based Generative Modeling through SDEs", Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.prediction import eps_from_x_0
from undye.diffusion.process import times
from undye.diffusion.schedule import NoiseSchedule
from undye.samplers.ancestral import Ancestral
from undye.samplers.base import DenoiserLike, Levels, Noise, Sampler, Step, pairs
from undye.samplers.ddim import DDIM


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A step of another sampler to s, then Langevin dynamics at s, which brings x_s back to the model's density there.

    A corrector's step (Algorithm 5) is x + e score + sqrt(2 e) z with e = 2 (snr |z| / |score|)^2. The paper takes
    means of these norms over the batch; here e has their expectation, |z| / |score| = noise_s, so that a sample does
    not depend on its batch. Its further factor alpha_s, near 1 where there are 1000 steps, is left out. No correction
    follows the last step, which takes the mean.

    Attributes:
        predictor: "ancestral", with the model's own variance, or "ddim".
        repeats: corrector steps after each predictor step: a network call each.
        snr: the ratio of the score's part of a step to the noise's.
    """

    name: ClassVar[str] = "pc"
    default_steps: ClassVar[int | None] = 100
    predictor: Literal["ancestral", "ddim"] = "ancestral"
    repeats: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        """Check the hyperparameters."""
        if self.predictor not in ("ancestral", "ddim"):
            raise ValueError(f"unknown predictor {self.predictor!r}: choose ancestral or ddim")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        if not 0 < self.snr < 0.5:
            raise ValueError(f"snr must lie in (0, 0.5), got {self.snr}")

    def calls(self, schedule: NoiseSchedule, grid: Real[Tensor, " n"]) -> int:
        """See `Sampler.calls`."""
        return len(grid) - 1 + self.repeats * (len(grid) - 2)

    def steps(
        self, denoiser: DenoiserLike, x_T: Float[Tensor, "b c h w"], grid: Real[Tensor, " n"], noise: Noise
    ) -> Iterator[Step]:
        """See `Sampler.steps`."""
        schedule = denoiser.schedule
        predictor = Ancestral(clip=self.clip) if self.predictor == "ancestral" else DDIM(clip=self.clip)
        walk = pairs(grid, schedule)
        x, at = x_T, Levels.of(schedule, grid)
        # a predictor's step does not know of those before it: what it is given is where the corrector left off
        for index, (t, s) in enumerate(walk):
            x, x_0 = predictor.step(denoiser, x, t, s, noise)
            for _ in range(self.repeats if s > 0 else 0):
                s_ = times(s, x)
                out, x_0 = self.predict_x_0(denoiser, x, s_)
                eps = out.eps if x_0 is out.x_0 else eps_from_x_0(x_0, x, schedule.log_alpha_bar_at(s_))
                b = at.noise[index + 1]
                e = 2 * (self.snr * b) ** 2
                x = x - (e / b) * eps + sqrt(2 * e) * noise(x)
            yield Step(index, t, s, x, x_0)
