"""The training objective: draws t and eps for each example and says how wrong the model is."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from undye import keyed
from undye.denoiser import Denoiser
from undye.keyed import Stream


@dataclass(frozen=True)
class Draw:
    """The random part of a training step. t: (B,) int64 in 1..T; eps: (B, C, H, W); keep_label: (B,) bool."""

    t: Tensor
    eps: Tensor
    keep_label: Tensor


@dataclass(frozen=True)
class SimpleObjective:
    """L_simple (Ho et al. 2020, Eq. 14): the squared error of the predicted quantity, t uniform, all t weighted alike.

    For a model that predicts eps this is the paper's; for v or x_0 it is the same with that quantity as the target.

    Attributes:
        label_drop: fraction of the examples whose label is replaced by the null label (classifier-free guidance).
        stratified: spread the timesteps of a batch evenly over 1..T from a random start. Each is still uniform; the
            batch's mean loss varies less.
    """

    label_drop: float = 0.1
    stratified: bool = False

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
        if self.stratified:
            start = keyed.uniform(seed, Stream.TRAIN_TIME_START, step)
            u[:, 0] = (start + examples / (batch_size or len(numbers))) % 1.0
        # a sum that rounds up to 1 must not become T + 1
        t = np.minimum(1 + np.floor(u[:, 0] * num_steps).astype(np.int64), num_steps)
        return Draw(torch.from_numpy(t), torch.from_numpy(eps), torch.from_numpy(u[:, 1] >= self.label_drop))

    def loss(
        self, denoiser: Denoiser, x_0: Float[Tensor, "b c h w"], draw: Draw, label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """The mean squared error of each example, float32."""
        log_alpha_bar = denoiser.schedule.log_alpha_bar_at(draw.t)
        eps = draw.eps.to(x_0.device)
        x_t = denoiser.process.q_sample(x_0, draw.t, eps)
        if label is not None:
            null = torch.full_like(label, denoiser.config.num_classes or 0)
            label = torch.where(draw.keep_label.to(label.device), label, null)
        value, _ = denoiser.predict(x_t, draw.t, label)
        target = denoiser.prediction.target(x_0, eps, log_alpha_bar)
        return (value.float() - target.float()).square().mean(dim=(1, 2, 3))
