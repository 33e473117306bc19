"""The residual block of the U-Net."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from undye.config import UNetConfig
from undye.networks.initialisation import initialise


class ResBlock(nn.Module):
    """GroupNorm, swish, conv; the embedding; GroupNorm, swish, dropout, conv; add the input.

    The embedding is added before the second norm (Ho et al. 2020), or scales and shifts what that norm gives (Nichol
    and Dhariwal 2021). A block that changes the resolution does so before its first convolution, on both branches
    (Dhariwal and Nichol 2021).
    """

    def __init__(self, c_in: int, c_out: int, c_emb: int, config: UNetConfig, change: nn.Module | None = None):
        super().__init__()
        init, groups, eps = config.init, config.norm_groups, config.norm_eps
        self.scale_shift = config.scale_shift_norm
        self.change = nn.Identity() if change is None else change
        self.norm1 = nn.GroupNorm(groups, c_in, eps)
        self.conv1 = initialise(nn.Conv2d(c_in, c_out, 3, padding=1), init)
        self.emb_proj = initialise(nn.Linear(c_emb, 2 * c_out if self.scale_shift else c_out), init)
        self.norm2 = nn.GroupNorm(groups, c_out, eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = initialise(nn.Conv2d(c_out, c_out, 3, padding=1), init, last=True)
        self.shortcut = nn.Identity() if c_in == c_out else initialise(nn.Conv2d(c_in, c_out, 1), init)

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        """x: features; emb: the time (and class) embedding before its nonlinearity."""
        h = self.conv1(self.change(F.silu(self.norm1(x))))
        emb = self.emb_proj(F.silu(emb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.shortcut(self.change(x)) + h
