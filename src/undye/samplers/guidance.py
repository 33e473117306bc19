"""A model with a label and a guidance weight filled in: for samplers it is a model without labels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

from undye.denoiser import Denoised, Denoiser
from undye.errors import UserError


class Conditioned:
    """Classifier-free guidance, Ho and Salimans 2022, with eps = eps_null + weight (eps_label - eps_null).

    Weight 1 is the conditional model (one network call), 0 the unconditional one, above 1 exaggerates the class.

    Raises:
        UserError: for another weight than 1, if the model has no null label.
    """

    def __init__(self, denoiser: Denoiser, label: Int64[Tensor, " b"], weight: float = 1.0):
        if weight != 1 and not denoiser.config.null_label:
            raise UserError("this model knows no null label, so there is nothing to guide away from: use guidance 1")
        self.denoiser, self.label, self.weight = denoiser, label, weight
        self.config, self.schedule, self.process = denoiser.config, denoiser.schedule, denoiser.process

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"]) -> Denoised:
        """The guided prediction."""
        conditional = self.denoiser(x_t, t, self.label)
        if self.weight == 1:
            return conditional
        null = self.denoiser(x_t, t, None)
        # x_t = a x_0 + b eps is linear, so mixing both alike keeps it true; x_0 from eps would divide by a
        x_0 = null.x_0 + self.weight * (conditional.x_0 - null.x_0)
        eps = null.eps + self.weight * (conditional.eps - null.eps)
        return replace(conditional, x_0=x_0, eps=eps)


def class_labels(label: int | Sequence[int] | np.ndarray, n: int, num_classes: int | None) -> Int64[Tensor, " n"]:
    """One label for each of `n` images, from one for all or one for each.

    Raises:
        UserError: if the model has no classes, or these are not its.
    """
    if num_classes is None:
        raise UserError("this model was trained without labels: use it without one")
    labels = np.asarray(label)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are whole numbers, not {labels.dtype}")
    labels = labels.astype(np.int64)
    if labels.ndim == 0:
        labels = np.full(n, labels)
    if labels.shape != (n,):
        raise UserError(f"give one label, or one for each of the {n} images: got {labels.size}")
    if ((labels < 0) | (labels >= num_classes)).any():
        raise UserError(f"labels must lie in 0..{num_classes - 1}")
    return torch.from_numpy(labels.copy())
