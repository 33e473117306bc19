"""A model with a label and a guidance weight filled in: for samplers it is a model without labels."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from math import inf

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

from undye.denoiser import Denoised, Denoiser
from undye.diffusion.prediction import divisor_and_noise, eps_from_x_0
from undye.diffusion.process import like
from undye.diffusion.score import sigma_at
from undye.errors import UserError
from undye.samplers.base import DenoiserLike

Gradient = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,)) -> the gradient of log p(y | x_t) by x_t, as large as x_t."""

JOINED_UP_TO = 8
"""Images up to which both predictions of classifier-free guidance are one network call: what a call costs beside its
arithmetic is then paid once. Above, two calls are as fast or faster (a CPU's caches): docs/log.md has the numbers."""


class Conditioned:
    """Classifier-free guidance, Ho and Salimans 2022, with eps = eps_null + weight (eps_label - eps_null).

    Weight 1 is the conditional model (one network call), 0 the unconditional one, above 1 exaggerates the class.

    Args:
        denoiser: the model.
        label: a class for each image.
        weight: of the guidance.
        interval: (lowest, highest) sigma = sqrt(1 / SNR) at which to guide; elsewhere the weight is 1 (Kynkaanniemi et
            al. 2024). None: everywhere.
        rescale: 0 to 1: how far each guided x_0 is brought to the standard deviation of the conditional one, against
            overexposure (Lin et al. 2024, section 3.4, which does it to the network's own output).

    Raises:
        UserError: for another weight than 1, if the model has no null label; for an interval or rescale out of range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        label: Int64[Tensor, " b"],
        weight: float = 1.0,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ):
        check_guidance(denoiser, weight, interval, rescale)
        self.denoiser, self.label, self.weight = denoiser, label, weight
        self.interval, self.rescale = interval, rescale
        self.config, self.schedule, self.process = denoiser.config, denoiser.schedule, denoiser.process

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"]) -> Denoised:
        """The guided prediction."""
        if self.weight == 1 or not bool((guided := self._guided(t)).any()):
            return self.denoiser(x_t, t, self.label)
        conditional, null = self._both(x_t, t)
        # x_t = a x_0 + b eps is linear, so mixing both alike keeps it true; x_0 from eps would divide by a
        x_0 = null.x_0 + self.weight * (conditional.x_0 - null.x_0)
        eps = null.eps + self.weight * (conditional.eps - null.eps)
        if self.rescale > 0:
            # without signal x_0 from eps is so large that its squares would be infinite
            size = x_0.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
            stds = [(x / size).std(dim=(1, 2, 3), keepdim=True) for x in (conditional.x_0, x_0)]
            to = stds[0] / stds[1].clamp(min=1e-8)
            x_0 = x_0 * (1 - self.rescale + self.rescale * to)
            eps = eps_from_x_0(x_0, x_t, self.schedule.log_alpha_bar_at(t))
        if not bool(guided.all()):
            chosen = guided.to(x_t.device).view(-1, 1, 1, 1)
            x_0, eps = torch.where(chosen, x_0, conditional.x_0), torch.where(chosen, eps, conditional.eps)
        return replace(conditional, x_0=x_0, eps=eps)

    def _both(self, x_t: Tensor, t: Tensor) -> tuple[Denoised, Denoised]:
        """The predictions with the label and without one."""
        if len(x_t) > JOINED_UP_TO:
            return self.denoiser(x_t, t, self.label), self.denoiser(x_t, t, None)
        null = torch.full_like(self.label, self.config.num_classes or 0)
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([self.label, null]))
        halves = {f.name: v.chunk(2) for f in fields(both) if (v := getattr(both, f.name)) is not None}
        conditional, unconditional = (Denoised(**{k: v[i] for k, v in halves.items()}) for i in range(2))
        return conditional, unconditional

    def _guided(self, t: Tensor) -> Tensor:
        """For each image whether it is guided at its time."""
        if self.interval is None:
            return torch.ones(len(t), dtype=torch.bool)
        sigma = sigma_at(self.schedule.log_alpha_bar_at(t))
        return (self.interval[0] <= sigma) & (sigma <= self.interval[1])


class ClassifierGuided:
    """Classifier guidance, Dhariwal and Nichol 2021, section 4: the score of p(x_t) p(y | x_t)^scale.

    eps becomes eps - noise scale gradient (their Algorithm 2) and x_0 with it x_0 + noise^2 / signal scale gradient.

    Args:
        model: the model; a `Conditioned` one is fine.
        gradient: of log p(y | x_t) by x_t, from whatever knows it: see `gradient_of`.
        scale: above 1 exaggerates.
    """

    def __init__(self, model: DenoiserLike, gradient: Gradient, scale: float = 1.0):
        self.model, self.gradient, self.scale = model, gradient, scale
        self.config, self.schedule, self.process = model.config, model.schedule, model.process

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], /) -> Denoised:
        """The guided prediction."""
        out = self.model(x_t, t)
        a, b = divisor_and_noise(self.schedule.log_alpha_bar_at(t), x_t)
        shift = self.scale * self.gradient(x_t, t)
        return replace(out, x_0=out.x_0 + b.square() / a * shift, eps=out.eps - b * shift)


def gradient_of(log_prob: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """The gradient by x_t of a log-probability (x_t, t) -> (B,) in which the images do not touch each other.

    It may be called where gradients are off, as they are while sampling.
    """

    def gradient(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            (found,) = torch.autograd.grad(log_prob(x, t).sum(), x)
        return found

    return gradient


class Thresholded:
    """Dynamic thresholding of x_0, Saharia et al. 2022 (Imagen), section 2.3, for any sampler.

    Each image's x_0 is clipped to [-s, s] and divided by s, where s is the percentile of its absolute values but at
    least 1; eps is derived anew, so that both still explain x_t. (Static thresholding, to [-1, 1], is a sampler's
    `clip`.)

    Args:
        model: the model, guided or not.
        percentile: the share of an image's numbers that stays unclipped, in (0, 1].

    Raises:
        UserError: for a percentile out of range.
    """

    def __init__(self, model: DenoiserLike, percentile: float = 0.995):
        if not 0 < percentile <= 1:
            raise UserError(f"the threshold's percentile must lie in (0, 1], got {percentile}")
        self.model, self.percentile = model, percentile
        self.config, self.schedule, self.process = model.config, model.schedule, model.process

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], /) -> Denoised:
        """The prediction with x_0 brought to [-1, 1]."""
        out = self.model(x_t, t)
        # sorted by hand: torch.quantile takes at most 2^24 numbers, and no half precision
        ordered = out.x_0.abs().flatten(1).sort(dim=1).values
        s = ordered[:, round(self.percentile * (ordered.shape[1] - 1))].clamp(min=1)
        x_0 = out.x_0.clamp(-like(s, x_t), like(s, x_t)) / like(s, x_t)
        return replace(out, x_0=x_0, eps=eps_from_x_0(x_0, x_t, self.schedule.log_alpha_bar_at(t)))


def check_guidance(denoiser: Denoiser, weight: float, interval: tuple[float, float] | None, rescale: float) -> None:
    """Raise a UserError for guidance that this model, or no model, can give."""
    if weight != 1 and not denoiser.config.null_label:
        raise UserError("this model knows no null label, so there is nothing to guide away from: use guidance 1")
    if not -inf < weight < inf:
        raise UserError(f"the guidance weight must be a finite number, got {weight}")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise UserError(f"a guidance interval is two sigmas, the lower first, got {interval[0]} and {interval[1]}")
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance rescale must lie in [0, 1], got {rescale}")


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
