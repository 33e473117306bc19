"""The averaged weights."""

import pytest
import torch

from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser
from undye.training.ema import EMA


def tiny() -> Denoiser:
    return Denoiser.from_config(
        ModelConfig(network=CompactConfig(channels=(8,), blocks=(1,), head_channels=0), image_size=(4, 4), channels=1)
    )


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_average_against_the_recursion(decay: float) -> None:
    model = tiny()
    ema = EMA(model, decay)
    weight = next(model.parameters())
    expected = weight.detach().double().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * weight.detach().double()
        ema.update(model, step)
    torch.testing.assert_close(next(ema.model.parameters()).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_average_takes_no_part_in_training() -> None:
    ema = EMA(tiny(), 0.9)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
