"""The samplers, one per file. `SAMPLERS` is the family's table: a new sampler is its own file and a line here."""

from undye.samplers.ancestral import Ancestral
from undye.samplers.base import DenoiserLike, Noise, Sampler, Step, final
from undye.samplers.ddim import DDIM
from undye.samplers.langevin import Langevin
from undye.samplers.noise import SampleNoise

SAMPLERS: dict[str, type[Sampler]] = {cls.name: cls for cls in (Ancestral, DDIM, Langevin)}

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "DenoiserLike",
    "Langevin",
    "Noise",
    "SampleNoise",
    "Sampler",
    "Step",
    "final",
]
