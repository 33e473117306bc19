"""What the likelihoods are given: images and labels, checked against the model and brought to its numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undye.data.pixels import to_signed
from undye.denoiser import Denoised, Denoiser
from undye.device import default_batch
from undye.diffusion.variance import LEARNED, VARIANCES
from undye.errors import UserError
from undye.samplers import DenoiserLike
from undye.samplers.fitting import fitting_batch
from undye.samplers.guidance import Conditioned, class_labels

Images = np.ndarray | Tensor
"""uint8 (N, H, W, C), or real numbers (N, C, H, W) in [-1, 1]. Anything else is the user's to mend."""


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of a likelihood.

    Attributes:
        x_0: (N, C, H, W) on the CPU; float32, or float64 where the model computes in that. Never less: in half
            precision pixels are not at their 256 levels.
        label: (N,) int64 or None.
        discrete: whether they are pixels, at 256 levels.
        device: where the model computes.
        dtype: what to ask it in: a Denoiser in that of x_0, since it rounds for its network itself; others in that of
            their weights.
    """

    x_0: Tensor
    label: Tensor | None
    discrete: bool
    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.x_0)

    @property
    def dims(self) -> int:
        """Numbers in an image."""
        return self.x_0[0].numel()

    def ask(self, denoiser: DenoiserLike, rows: Tensor, x_t: Tensor, t: Tensor) -> Denoised:
        """What the model says of noisy versions x_t of these images, in the dtype of x_t."""
        out, kind = self.model(denoiser, rows)(x_t.to(self.dtype), t), x_t.dtype
        fraction, offset = (None if v is None else v.to(kind) for v in (out.var_fraction, out.log_var_offset))
        return Denoised(out.x_0.to(kind), out.eps.to(kind), fraction, offset)

    def model(self, denoiser: DenoiserLike, rows: Tensor) -> DenoiserLike:
        """The model for these images: with their labels filled in."""
        if self.label is None or not isinstance(denoiser, Denoiser):
            return denoiser
        return Conditioned(denoiser, self.label[rows].to(self.device))

    def batch_size(self, denoiser: DenoiserLike, asked: int | None) -> int:
        """How many images to put through the network at a time."""
        if asked is not None and asked < 1:
            raise UserError(f"the batch size must be at least 1, got {asked}")
        most = default_batch(self.x_0.shape[2], self.x_0.shape[3])
        return asked or (min(most, fitting_batch(denoiser)) if isinstance(denoiser, Denoiser) else most)


def check_inputs(denoiser: DenoiserLike, images: Images, label: int | Sequence[int] | np.ndarray | None) -> Inputs:
    """Images and labels as a likelihood needs them.

    Args:
        denoiser: the model.
        images: uint8 (N, H, W, C), or real numbers (N, C, H, W) in the model's own [-1, 1].
        label: one class for all, one for each image, or None.

    Raises:
        UserError: if they do not fit the model.
    """
    parameter = next(denoiser.parameters(), None) if isinstance(denoiser, torch.nn.Module) else None
    own = torch.float64 if parameter is None else parameter.dtype
    wide = torch.float64 if own == torch.float64 else torch.float32
    discrete = not isinstance(images, Tensor)
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.is_floating_point():
            shape = tuple(images.shape)
            raise UserError(f"a tensor of images is (N, C, H, W) of real numbers, not {images.dtype} {shape}")
        if not bool((images.abs() < 10).all()):
            raise UserError("a tensor of images holds numbers in the model's units, about -1..1: these are far outside")
        x_0 = images.detach().to("cpu", wide)
    else:
        if not isinstance(images, np.ndarray):
            raise UserError(f"images are a uint8 array (N, H, W, C) or a tensor, not a {type(images).__name__}")
        if images.ndim != 4 or images.dtype != np.uint8:
            raise UserError(f"an array of images is uint8 (N, H, W, C), not {images.dtype} {images.shape}")
        x_0 = to_signed(images).to(wide)
    if not len(x_0):
        raise UserError("there are no images to evaluate")
    check_shape(denoiser, (x_0.shape[2], x_0.shape[3]), x_0.shape[1])
    device = torch.device("cpu") if parameter is None else parameter.device
    labels = None if label is None else class_labels(label, len(x_0), denoiser.config.num_classes)
    return Inputs(x_0, labels, discrete, device, wide if isinstance(denoiser, Denoiser) else own)


def check_shape(denoiser: DenoiserLike, image_size: tuple[int, int], channels: int) -> None:
    """Make sure that images of this shape are what the model is for.

    Raises:
        UserError: if they are not; it says what would be.
    """
    config = denoiser.config
    if (image_size, channels) == (tuple(config.image_size), config.channels):
        return
    have, want = (
        f"{size[0]}x{size[1]} with {c} channel{'s' if c > 1 else ''}"
        for size, c in ((image_size, channels), (config.image_size, config.channels))
    )
    height, width = config.image_size
    raise UserError(
        f"the images are {have}, the model is for {want}: load them with --image-size {height}x{width} "
        f"--channels {config.channels}, or choose other data"
    )


def check_variance(denoiser: DenoiserLike, kind: str) -> None:
    """Make sure that a model can say a reverse variance of this kind.

    Raises:
        UserError: for an unknown kind, or a learned one that is not what this model has learned.
    """
    if kind not in VARIANCES:
        raise UserError(f"unknown variance {kind!r}: choose from {', '.join(VARIANCES)}")
    if kind in LEARNED and kind != denoiser.config.variance:
        raise UserError(f"this model has not learned a variance of the kind {kind}")


@contextmanager
def evaluating(denoiser: DenoiserLike) -> Iterator[None]:
    """Eval mode, undone afterwards."""
    if not isinstance(denoiser, torch.nn.Module):
        yield
        return
    was_training = denoiser.training
    denoiser.eval()
    try:
        yield
    finally:
        denoiser.train(was_training)
