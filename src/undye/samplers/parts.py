"""A model that is asked for some images at a time: for walks with more of them than go through a network at once."""

from dataclasses import fields

import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

from undye.denoiser import Denoised, Denoiser
from undye.device import is_out_of_memory
from undye.errors import UserError
from undye.samplers.fitting import fitting_batch
from undye.samplers.guidance import Conditioned


class InParts:
    """As many images at a time as suit their size and the device, and fewer where memory runs out.

    Args:
        denoiser: the model.
        label: a class for each image; None: none.
    """

    def __init__(self, denoiser: Denoiser, label: Int64[Tensor, " b"] | None = None):
        self.denoiser, self.label = denoiser, label
        self.config, self.schedule, self.process = denoiser.config, denoiser.schedule, denoiser.process
        self.size = fitting_batch(denoiser)

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], /) -> Denoised:
        """What the model says.

        Raises:
            UserError: if there is not enough memory for a single image.
        """
        parts, start = list[Denoised](), 0
        while start < len(x_t):
            here = slice(start, start + self.size)
            model = self.denoiser if self.label is None else Conditioned(self.denoiser, self.label[here])
            try:
                parts.append(model(x_t[here], t[here]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise UserError("there is not enough memory for a single image: use another --device") from None
                self.size = (min(self.size, len(x_t)) + 1) // 2
                continue
            start += self.size
        if len(parts) == 1:
            return parts[0]
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Denoised)}
        return Denoised(**{name: torch.cat(v) for name, v in columns.items() if v[0] is not None})
