"""A model with a label and a guidance weight filled in: for samplers it is a model without labels."""

from jaxtyping import Float, Int64, Real
from torch import Tensor

from undye.denoiser import Denoised, Denoiser


class Conditioned:
    """Classifier-free guidance, Ho and Salimans 2022, with eps = eps_null + weight (eps_label - eps_null).

    Weight 1 is the conditional model (one network call), 0 the unconditional one, above 1 exaggerates the class.
    """

    def __init__(self, denoiser: Denoiser, label: Int64[Tensor, " b"], weight: float = 1.0):
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
        return Denoised(x_0, eps, conditional.var_fraction)
