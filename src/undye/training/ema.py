"""The exponential moving average of the weights: what is saved, sampled and measured."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """theta_ema <- d theta_ema + (1 - d) theta after each step (Ho et al. 2020, appendix B: d = 0.9999).

    d is warmed up, min(decay, (1 + step) / (10 + step)), so that a short run does not average over its random start.
    Buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Average in the weights after step number `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, [w.detach() for w in weights], 1 - decay)
        for average, buffer in _pairs(self.model, model):
            average.copy_(buffer)


def _pairs(a: nn.Module, b: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.buffers(), b.buffers(), strict=True)
