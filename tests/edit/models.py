"""Tiny models and images for the tests of the edits, and of sampling."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser

CONFIG = ModelConfig(
    network=CompactConfig(channels=(8,), blocks=(1,), head_channels=0),
    image_size=(8, 12),
    channels=3,
    prediction="v",
    variance="fixed_small",
    schedule=ScheduleConfig(name="cosine", num_steps=40),
    time_input="per_mille",
)


def tiny(config: ModelConfig, **options) -> Denoiser:
    """A model that has learned nothing, but whose last layer is not zero; the options are put into its config."""
    torch.manual_seed(3)
    denoiser = Denoiser.from_config(replace(config, **options))
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return denoiser.eval()


model = partial(tiny, CONFIG)
MODEL = model()
GREY = model(channels=1)
LABELLED = model(channels=1, num_classes=3)


def images(n: int = 3, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 12, channels), dtype=np.uint8)


def small_memory(monkeypatch: pytest.MonkeyPatch, denoiser: Denoiser) -> list[int]:
    """From now on memory suffices for two images at a time; how many the network was asked for, call by call."""
    asked, forward = list[int](), type(denoiser.network).forward

    def with_two(self, x, *args):
        asked.append(len(x))
        if len(x) > 2:
            raise MemoryError
        return forward(self, x, *args)

    monkeypatch.setattr(type(denoiser.network), "forward", with_two)
    return asked


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for the rounding of float32 in batches of another size, which may move a pixel by a level."""
    return a.shape == b.shape and bool(np.abs(a.astype(int) - b.astype(int)).max() <= 1)
