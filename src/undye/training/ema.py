"""The exponential moving average of the weights: what is saved, sampled and measured."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from undye.denoiser import Denoiser
from undye.training.parallel import local


class EMA:
    """theta_ema <- d theta_ema + (1 - d) theta after each step (Ho et al. 2020, appendix B: d = 0.9999).

    d is warmed up, min(decay, (1 + step) / (10 + step)), so that a short run does not average over its random start.
    Buffers are copied, not averaged.
    """

    def __init__(self, model: Denoiser, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Denoiser, step: int) -> None:
        """Average in the weights after step number `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = local(self.model.parameters())
        weights = local(w.detach() for w in model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in _pairs(self.model, model):
            average.copy_(buffer)


def _pairs(a: Denoiser, b: Denoiser) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.buffers(), b.buffers(), strict=True)
