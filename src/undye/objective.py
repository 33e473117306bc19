"""The training objectives: draw t and eps for each example and say how wrong the model is.

simple is the paper's L_simple, with other distances and weightings where they are asked for; vlb the variational bound
itself; hybrid L_simple for the mean and the bound for the variance (Nichol and Dhariwal 2021).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from undye import keyed
from undye.denoiser import Denoised, Denoiser
from undye.diffusion import likelihood, variance
from undye.diffusion.process import like
from undye.diffusion.weighting import Simple, Weighting
from undye.keyed import Stream
from undye.timesteps import TimestepSampler, Uniform

DISTANCES = ("l2", "l1", "huber")
OBJECTIVES = ("simple", "vlb", "hybrid")


@dataclass(frozen=True)
class Draw:
    """The random part of a training step.

    Attributes:
        t: (B,) int64 in 1..T.
        eps: (B, C, H, W).
        keep_label: (B,) bool.
        weight: (B,) float64, 1 / (T p(t)): multiplies the losses before their mean is taken.
    """

    t: Tensor
    eps: Tensor
    keep_label: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Base of the objectives.

    Attributes:
        timesteps: how t is drawn. The only part with a memory (if it is `Importance`), fed by the trainer.
        label_drop: fraction of the examples whose label is replaced by the null label (classifier-free guidance).
    """

    name: ClassVar[str]
    timesteps: TimestepSampler = field(default_factory=Uniform)
    label_drop: float = 0.1

    def draw(
        self,
        shape: tuple[int, ...],
        num_steps: int,
        seed: int,
        step: int,
        examples: np.ndarray,
        batch_size: int | None = None,
    ) -> Draw:
        """The noise and timesteps of a step, for examples numbered `examples` in a global batch of `batch_size`.

        Each is a function of (seed, step, example number, batch_size), so any split of the batch draws the same.
        `batch_size` None means that these examples are the whole batch.
        """
        numbers = examples.tolist()
        eps = np.stack(
            [keyed.generator(seed, Stream.TRAIN_NOISE, step, i).standard_normal(shape, np.float32) for i in numbers]
        )
        u = np.array([keyed.generator(seed, Stream.TRAIN_TIME, step, i).random(2) for i in numbers])
        t, weight = self.timesteps.draw(u[:, 0], num_steps, seed, step, examples, batch_size or len(numbers))
        keep_label = torch.from_numpy(u[:, 1] >= self.label_drop)
        return Draw(torch.from_numpy(t), torch.from_numpy(eps), keep_label, torch.from_numpy(weight))

    @abstractmethod
    def loss(
        self, denoiser: Denoiser, x_0: Float[Tensor, "b c h w"], draw: Draw, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """The loss of each example, float32 or better, not yet multiplied by `draw.weight`."""

    def predict(
        self, denoiser: Denoiser, x_0: Tensor, draw: Draw, label: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(x_t, eps, value, learned variance): what the network sees, and what it makes of it; float32 or better."""
        eps = draw.eps.to(x_0.device)
        x_t = denoiser.process.q_sample(x_0, draw.t, eps)
        if label is not None and denoiser.config.null_label:
            null = torch.full_like(label, denoiser.config.num_classes or 0)
            label = torch.where(draw.keep_label.to(label.device), label, null)
        value, learned = denoiser.predict(x_t, draw.t, label)
        return x_t, eps, _not_half(value), None if learned is None else _not_half(learned)


@dataclass(frozen=True, kw_only=True)
class SimpleObjective(Objective):
    """L_simple (Ho et al. 2020, Eq. 14): how far the predicted quantity is off, all t weighted alike by default.

    For a model that predicts eps this is the paper's; for another it is the same with that quantity as the target.

    Attributes:
        distance: l2, the squared error; l1, the absolute one; huber, the squared one up to 1 and the absolute beyond
            (halved, as usual).
        weighting: the weight of each t. It is stated for squared errors; with the other distances it is used as it is.
    """

    name: ClassVar[str] = "simple"
    distance: str = "l2"
    weighting: Weighting = field(default_factory=Simple)

    def __post_init__(self) -> None:
        """Check the name of the distance."""
        if self.distance not in DISTANCES:
            raise ValueError(f"unknown distance {self.distance!r}: choose from {', '.join(DISTANCES)}")

    def loss(self, denoiser, x_0, draw, label=None):
        """The mean distance of each example's numbers, weighted."""
        _, eps, value, _ = self.predict(denoiser, x_0, draw, label)
        return self.error(denoiser, value, x_0, eps, draw)

    def error(self, denoiser: Denoiser, value: Tensor, x_0: Tensor, eps: Tensor, draw: Draw) -> Float[Tensor, " b"]:
        """The loss, given what the network said."""
        target = denoiser.prediction.target(x_0, eps, denoiser.schedule, draw.t).to(value)
        weight = self.weighting.weight(denoiser.schedule, denoiser.prediction, draw.t)
        return _distance(self.distance, value, target).mean(dim=(1, 2, 3)) * weight.to(value)


@dataclass(frozen=True, kw_only=True)
class VLBObjective(Objective):
    """The variational bound (Ho et al. 2020, Eq. 5): T times the term of the drawn t, in bits/dim.

    Its mean over t, weighted by `Draw.weight`, is the bound without L_T, which has no parameters. x_0 is not clipped,
    so that the gradient reaches it.
    """

    name: ClassVar[str] = "vlb"

    def loss(self, denoiser, x_0, draw, label=None):
        """T L_{t-1}, and for t = 1 T L_0."""
        x_t, _, value, learned = self.predict(denoiser, x_0, draw, label)
        out = denoiser.read(value, learned, x_t, draw.t)
        return vlb_term(denoiser, x_0, out, draw.t) * denoiser.schedule.num_steps


@dataclass(frozen=True, kw_only=True)
class HybridObjective(SimpleObjective):
    """L_simple + weight * L_vlb, where the bound teaches the variance alone: Nichol and Dhariwal 2021, Eq. 16.

    The prediction enters the bound with its gradient stopped. Needs a learned variance.

    Attributes:
        vlb_weight: lambda of the paper, for L_vlb in bits/dim.
    """

    name: ClassVar[str] = "hybrid"
    vlb_weight: float = 1e-3

    def loss(self, denoiser, x_0, draw, label=None):
        """Both terms of each example."""
        x_t, eps, value, learned = self.predict(denoiser, x_0, draw, label)
        if learned is None:
            raise ValueError("the hybrid objective needs a learned variance: learned_range or learned")
        out = denoiser.read(value.detach(), learned, x_t, draw.t)
        bound = vlb_term(denoiser, x_0, out, draw.t) * denoiser.schedule.num_steps
        return self.error(denoiser, value, x_0, eps, draw) + self.vlb_weight * bound


def vlb_term(
    denoiser: Denoiser, x_0: Float[Tensor, "b c h w"], out: Denoised, t: Int64[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """L_{t-1} of each example in bits/dim; L_0, with the discretised decoder of 256 levels, where t is 1."""
    s, config, last = t - 1, denoiser.config, t == 1
    log_var = variance.log_var(config.variance, denoiser.schedule, t, s, out.learned_variance)
    x_0 = _not_half(x_0)
    terms = torch.empty_like(x_0)
    # by rows, not by torch.where: a term that is not taken may be infinite, and its gradient then not a number
    if (rows := (~last).nonzero().flatten()).numel():
        here = rows.to(x_0.device)
        some_var = log_var[rows] if log_var.ndim == 1 else log_var[here]
        error = x_0[here] - out.x_0[here]
        terms[here] = likelihood.step_kl(denoiser.schedule, error, t[rows], s[rows], some_var)
    if (rows := last.nonzero().flatten()).numel():
        here = rows.to(x_0.device)
        some_x_0 = x_0[here]
        spread = like(log_var[rows], some_x_0).expand_as(some_x_0) if log_var.ndim == 1 else log_var[here].to(x_0)
        terms[here] = likelihood.discretised_gaussian_nll(some_x_0, out.x_0[here], spread)
    return terms.mean(dim=(1, 2, 3)) * likelihood.BITS_PER_NAT


def _not_half(x: Tensor) -> Tensor:
    """In float32 or better, whatever the network computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _distance(name: str, value: Tensor, target: Tensor) -> Tensor:
    if name == "l1":
        return (value - target).abs()
    if name == "huber":
        return F.huber_loss(value, target, reduction="none")
    return (value - target).square()
