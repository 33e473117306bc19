"""Images of any size in networks that halve them: zeros around, cropped again."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c hp wp"]:
    """Zeros around an image so that both sides are multiples, split evenly: flips stay flips. See `crop_like`."""
    (top, bottom), (left, right) = (_margins(n, multiple) for n in x.shape[2:])
    return F.pad(x, (left, right, top, bottom)) if top + bottom + left + right else x


def crop_like(y: Float[Tensor, "b d hp wp"], x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b d h w"]:
    """Undo `pad_to_multiple`: the part of `y` that lies over the image `x`."""
    (top, _), (left, _) = (_margins(n, multiple) for n in x.shape[2:])
    return y[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _margins(size: int, multiple: int) -> tuple[int, int]:
    total = -size % multiple
    return total // 2, total - total // 2
