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
    from undye.edit.denoise import add_noise, denoise
    from undye.edit.img2img import img2img
    from undye.edit.inpaint import inpaint
    from undye.edit.interpolate import interpolate, interpolate_samples
    from undye.edit.progressive import SharedLatents, progressive, shared_latents
    from undye.edit.restore import degrade, restore, restore_from
    from undye.errors import UserError
    from undye.films import forward_film
    from undye.metrics.compare import compare
    from undye.metrics.evaluate import evaluate
    from undye.metrics.nll import BitsPerDim, bits_per_dim
    from undye.metrics.ode_nll import OdeBitsPerDim, ode_bits_per_dim
    from undye.metrics.train_classifier import train_features
    from undye.runtimes import accelerated
    from undye.samplers.optimise import optimise_grid
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
    "SharedLatents": "edit.progressive",
    "SignalLeftWarning": "diffusion.terminal",
    "UNetConfig": "config",
    "UserError": "errors",
    "accelerated": "runtimes",
    "add_noise": "edit.denoise",
    "bits_per_dim": "metrics.nll",
    "compare": "metrics.compare",
    "degrade": "edit.restore",
    "denoise": "edit.denoise",
    "evaluate": "metrics.evaluate",
    "export": "checkpoint.export",
    "forward_film": "films",
    "img2img": "edit.img2img",
    "inpaint": "edit.inpaint",
    "interpolate": "edit.interpolate",
    "interpolate_samples": "edit.interpolate",
    "load": "checkpoint.load",
    "load_images": "data.load",
    "ode_bits_per_dim": "metrics.ode_nll",
    "optimise_grid": "samplers.optimise",
    "pack": "data.packing",
    "posthoc_ema": "training.posthoc",
    "progressive": "edit.progressive",
    "restore": "edit.restore",
    "restore_from": "edit.restore",
    "run_preset": "training.presets",
    "sample": "sampling",
    "shared_latents": "edit.progressive",
    "train": "api",
    "train_features": "metrics.train_classifier",
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
    "SharedLatents",
    "SignalLeftWarning",
    "UNetConfig",
    "UserError",
    "accelerated",
    "add_noise",
    "bits_per_dim",
    "compare",
    "degrade",
    "denoise",
    "evaluate",
    "export",
    "forward_film",
    "img2img",
    "inpaint",
    "interpolate",
    "interpolate_samples",
    "load",
    "load_images",
    "ode_bits_per_dim",
    "optimise_grid",
    "pack",
    "posthoc_ema",
    "progressive",
    "restore",
    "restore_from",
    "run_preset",
    "sample",
    "shared_latents",
    "train",
    "train_features",
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
