"""What tells a network the time and the class."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from undye.config import TimeDenominator, TimeOrder
from undye.errors import UserError


def sinusoidal(
    t: Float[Tensor, " b"],
    dim: int,
    max_period: float = 1e4,
    order: TimeOrder = "sin_cos",
    denominator: TimeDenominator = "half-1",
) -> Float[Tensor, "b dim"]:
    """Sin and cos of t at dim / 2 frequencies, spaced evenly on a log scale from 1 to 1 / max_period.

    The defaults are the original code's (`nn.get_timestep_embedding`): first all sines, then all cosines, and the last
    frequency is 1 / max_period. OpenAI's code has the cosines first, and (denominator half) stops one frequency short.
    """
    half = dim // 2
    # in this order, so that its rounding in float32 is that of diffusers: exported weights give the same images
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(exponent / (half - 1 if denominator == "half-1" else half))
    parts = [angle.sin(), angle.cos()]
    return torch.cat(parts if order == "sin_cos" else parts[::-1], dim=1)


class ClassEmbedding(nn.Module):
    """A row per class and, last, one for the null label of classifier-free guidance (Ho and Salimans 2022).

    Tables of models trained without that guidance have no such row.
    """

    def __init__(self, num_classes: int, dim: int, null_label: bool = True):
        super().__init__()
        self.null_label = null_label
        self.table = nn.Embedding(num_classes + null_label, dim)

    def forward(self, label: Int64[Tensor, " b"] | None, batch: int) -> Float[Tensor, "b dim"]:
        """The rows of the labels; without labels, the null row for each of `batch` images.

        Raises:
            UserError: without labels and without a null row.
        """
        if label is None:
            if not self.null_label:
                raise UserError("this model knows no null label: give it the class of each image")
            label = torch.full((batch,), self.table.num_embeddings - 1, device=self.table.weight.device)
        return self.table(label)
