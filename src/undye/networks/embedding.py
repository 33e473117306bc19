"""What tells a network the time and the class."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


def sinusoidal(t: Float[Tensor, " b"], dim: int, max_period: float = 1e4) -> Float[Tensor, "b dim"]:
    """Sin and cos of t at dim / 2 frequencies, spaced evenly on a log scale from 1 to 1 / max_period (both included).

    As in the original code (`nn.get_timestep_embedding`): first all sines, then all cosines.
    """
    half = dim // 2
    # in this order, so that its rounding in float32 is that of diffusers: exported weights give the same images
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
    angle = t.float()[:, None] * torch.exp(exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ClassEmbedding(nn.Module):
    """A row per class and, last, one for the null label of classifier-free guidance (Ho and Salimans 2022)."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, dim)

    def forward(self, label: Int64[Tensor, " b"] | None, batch: int) -> Float[Tensor, "b dim"]:
        """The rows of the labels; without labels, the null row for each of `batch` images."""
        if label is None:
            label = torch.full((batch,), self.table.num_embeddings - 1, device=self.table.weight.device)
        return self.table(label)
