"""undye: denoising diffusion probabilistic models. The public API; nothing heavy is imported before it is used."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undye.api import train
    from undye.checkpoint.export import export
    from undye.checkpoint.load import load
    from undye.config import CompactConfig, ModelConfig, ScheduleConfig, UNetConfig
    from undye.data.load import load_images
    from undye.data.packing import pack
    from undye.denoiser import Denoised, Denoiser
    from undye.diffusion.process import Gaussian, GaussianProcess
    from undye.diffusion.schedule import NoiseSchedule
    from undye.diffusion.terminal import SignalLeftWarning
    from undye.errors import UserError
    from undye.films import forward_film
    from undye.metrics.evaluate import evaluate
    from undye.metrics.nll import BitsPerDim, bits_per_dim
    from undye.metrics.ode_nll import OdeBitsPerDim, ode_bits_per_dim
    from undye.sampling import sample
    from undye.training.posthoc import posthoc_ema
    from undye.training.presets import run_preset
    from undye.training.run import RunConfig
    from undye.training.session import Interrupted

_HOME = {
    "BitsPerDim": "metrics.nll",
    "CompactConfig": "config",
    "Denoised": "denoiser",
    "Denoiser": "denoiser",
    "Gaussian": "diffusion.process",
    "GaussianProcess": "diffusion.process",
    "Interrupted": "training.session",
    "ModelConfig": "config",
    "NoiseSchedule": "diffusion.schedule",
    "OdeBitsPerDim": "metrics.ode_nll",
    "RunConfig": "training.run",
    "ScheduleConfig": "config",
    "SignalLeftWarning": "diffusion.terminal",
    "UNetConfig": "config",
    "UserError": "errors",
    "bits_per_dim": "metrics.nll",
    "evaluate": "metrics.evaluate",
    "export": "checkpoint.export",
    "forward_film": "films",
    "load": "checkpoint.load",
    "load_images": "data.load",
    "ode_bits_per_dim": "metrics.ode_nll",
    "pack": "data.packing",
    "posthoc_ema": "training.posthoc",
    "run_preset": "training.presets",
    "sample": "sampling",
    "train": "api",
}

__all__ = [
    "BitsPerDim",
    "CompactConfig",
    "Denoised",
    "Denoiser",
    "Gaussian",
    "GaussianProcess",
    "Interrupted",
    "ModelConfig",
    "NoiseSchedule",
    "OdeBitsPerDim",
    "RunConfig",
    "ScheduleConfig",
    "SignalLeftWarning",
    "UNetConfig",
    "UserError",
    "bits_per_dim",
    "evaluate",
    "export",
    "forward_film",
    "load",
    "load_images",
    "ode_bits_per_dim",
    "pack",
    "posthoc_ema",
    "run_preset",
    "sample",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("undye")
    if name not in _HOME:
        raise AttributeError(f"module 'undye' has no attribute {name!r}")
    return getattr(importlib.import_module(f"undye.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
