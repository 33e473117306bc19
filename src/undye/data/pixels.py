"""The only place where uint8 pixels and the network's [-1, 1] meet.

The 256 levels v sit at v / 127.5 - 1 (Ho et al. 2020, Section 3.3), so that 0 is -1 and 255 is 1.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from undye.errors import UserError


def to_signed(images: UInt8[np.ndarray, "n h w c"] | UInt8[Tensor, "n h w c"]) -> Float32[Tensor, "n c h w"]:
    """Pixels to [-1, 1]; a tensor stays on its device."""
    # A fresh copy: torch takes neither read-only arrays (a memory map) nor negative strides (a flip).
    x = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images, order="C"))
    return x.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_uint8(x: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w c"]:
    """[-1, 1] to pixels: clamped, then rounded to the nearest level (truncation would darken).

    Raises:
        UserError: `x` holds a NaN, which has no nearest level.
    """
    x = x.detach().to("cpu", torch.float32)
    if x.isnan().any():
        raise UserError("the images hold NaN: the network or the sampler diverged")
    levels = x.clamp(-1, 1).add(1).mul(127.5).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
