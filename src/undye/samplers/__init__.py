"""The samplers, one per file. `SAMPLERS` is the family's table: a new sampler is its own file and a line here."""

from undye.samplers.ancestral import Ancestral
from undye.samplers.base import DenoiserLike, Noise, Sampler, Step, final
from undye.samplers.ddim import DDIM
from undye.samplers.dpm import DPM2M, DPM3M
from undye.samplers.dpm_sde import DPM2MSDE
from undye.samplers.edm import Euler, Heun
from undye.samplers.langevin import Langevin
from undye.samplers.noise import SampleNoise
from undye.samplers.pc import PredictorCorrector
from undye.samplers.rk45 import RK45
from undye.samplers.unipc import UniPC

SAMPLERS: dict[str, type[Sampler]] = {
    cls.name: cls
    for cls in (Ancestral, DDIM, DPM2M, DPM3M, DPM2MSDE, UniPC, Euler, Heun, RK45, Langevin, PredictorCorrector)
}

__all__ = [
    "DDIM",
    "DPM2M",
    "DPM2MSDE",
    "DPM3M",
    "RK45",
    "SAMPLERS",
    "Ancestral",
    "DenoiserLike",
    "Euler",
    "Heun",
    "Langevin",
    "Noise",
    "PredictorCorrector",
    "SampleNoise",
    "Sampler",
    "Step",
    "UniPC",
    "final",
]
