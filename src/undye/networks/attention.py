"""Self-attention over the positions of a map."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from undye.config import UNetConfig
from undye.networks.initialisation import initialise


class AttentionBlock(nn.Module):
    """GroupNorm, self-attention over all positions in one or more heads, a projection; add the input."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.heads = config.heads(channels)
        self.norm = nn.GroupNorm(config.norm_groups, channels, config.norm_eps)
        self.q, self.k, self.v = (initialise(nn.Conv2d(channels, channels, 1), config.init) for _ in range(3))
        self.proj_out = initialise(nn.Conv2d(channels, channels, 1), config.init, last=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend, project, add."""
        h = self.norm(x)
        q, k, v = (to_heads(layer(h), self.heads) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(from_heads(F.scaled_dot_product_attention(q, k, v), x))


def to_heads(x: Float[Tensor, "b c h w"], heads: int) -> Float[Tensor, "b heads n d"]:
    """Positions as a sequence, channels split into heads."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def from_heads(x: Float[Tensor, "b heads n d"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The inverse of `to_heads`, in the shape of `like`."""
    return x.transpose(2, 3).reshape(like.shape[0], -1, *like.shape[2:])
