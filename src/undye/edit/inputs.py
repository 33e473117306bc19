"""What the edits are given: images, masks and numbers, checked against the model before anything is computed."""

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from undye.data.pixels import to_signed
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers import DenoiserLike, Sampler
from undye.sampling import check_learned, resolve_sampler


def check_images(denoiser: Denoiser, images: np.ndarray) -> Float32[Tensor, "n c h w"]:
    """Pixels of the model's size and channels as numbers in [-1, 1], on the CPU.

    Raises:
        UserError: if they are no uint8 images (N, H, W, C), or not what the model is for.
    """
    check_pixels(images)
    config = denoiser.config
    height, width = config.image_size
    have, want = images.shape[1:], (height, width, config.channels)
    if have != want:
        raise UserError(f"the images are {show(have)}, the model is for {show(want)}: fit them first (--fit)")
    return to_signed(images)


def check_pixels(images: np.ndarray) -> None:
    """Raise unless this is an array of images, of whatever size."""
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise UserError(f"an array of images is uint8 (N, H, W, C) with C 1 or 3, not {images.dtype} {images.shape}")
    if not images.size:
        raise UserError("there are no images to edit")


def show(shape: tuple[int, ...]) -> str:
    """(H, W, C) in words."""
    height, width, channels = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def check_mask(mask: np.ndarray, images: UInt8[np.ndarray, "n h w c"]) -> Bool[Tensor, "n 1 h w"]:
    """Where to fill: True.

    Args:
        mask: (H, W) for all images, or (N, H, W) for each: bool; or greyscale, filled from 128 on (from 1 on if it
            holds nothing but 0 and 1).
        images: the images.

    Raises:
        UserError: if its size or type is another, or it has nothing to fill.
    """
    n, height, width = images.shape[:3]
    if mask.shape not in ((height, width), (n, height, width)):
        size = "x".join(map(str, mask.shape)) or "a single number"
        raise UserError(f"the mask is {size}, the images are {height}x{width}: give a mask of exactly that size")
    fill = np.broadcast_to(as_fill(mask), (n, height, width))
    if (empty := ~fill.reshape(n, -1).any(1)).any():
        which = "the mask" if mask.ndim == 2 else f"mask {int(empty.argmax())}"
        raise UserError(f"{which} has nothing to fill: white is what is to be filled, black is kept")
    return torch.from_numpy(np.array(fill))[:, None]


def as_fill(mask: np.ndarray) -> Bool[np.ndarray, "..."]:
    """A mask as bool, True where to fill: a grey one is filled from 128 on, from 1 on if it holds but 0 and 1.

    Raises:
        UserError: for another type.
    """
    if mask.dtype == bool:
        return mask
    if mask.dtype != np.uint8:
        raise UserError(f"a mask is of type bool or uint8 (white is filled), not {mask.dtype}")
    return mask >= (1 if mask.size and mask.max() <= 1 else 128)


def check_variations(variations: int) -> None:
    """Raise unless there is at least one variation to make."""
    if variations < 1:
        raise UserError(f"the number of variations must be at least 1, got {variations}")


def check_seed(seed: int) -> None:
    """Raise unless this names a seed."""
    if not 0 <= seed < 2**63:
        raise UserError("the seed must lie in 0..2^63-1")


def named_sampler(sampler: str | Sampler, denoiser: DenoiserLike) -> Sampler:
    """A sampler by name with its defaults, or the sampler itself; one that the model can be used with."""
    found = resolve_sampler(sampler)
    check_learned(denoiser, found)
    return found


def check_time(t: int, num_steps: int) -> int:
    """A time of the chain that an edit starts at."""
    if not 1 <= t <= num_steps:
        raise UserError(f"the time t must lie in 1..{num_steps} (the model's T), got {t}")
    return t


def calls_of(sampler: Sampler, denoiser: DenoiserLike, grid: Tensor) -> int:
    """Network calls of a walk down the grid, for the progress: of an adaptive sampler a guess."""
    calls = sampler.calls(denoiser.schedule, grid)
    return len(grid) - 1 if calls is None else calls
