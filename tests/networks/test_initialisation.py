"""The three random starts of the U-Net."""

import pytest
import torch

from undye.config import UNetConfig
from undye.networks.unet import UNet

LAST = ("conv2", "proj_out", "conv_out")


def network(init):
    config = UNetConfig(base_channels=64, channel_mult=(1, 2), num_res_blocks=1, init=init, num_heads=2)
    return UNet(config, 3, 6, num_classes=10)


def layers(made):
    return {name: m for name, m in made.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}


@pytest.mark.parametrize("init", ["torch_zero", "torch"])
def test_pytorchs_start(init):
    """Uniform within 1 / sqrt(fan_in), weights and biases, but for the last layers where these are to be zero."""
    for name, layer in layers(network(init)).items():
        if init == "torch_zero" and name.endswith(LAST):
            assert not layer.weight.any(), name
            assert not layer.bias.any(), name
            continue
        limit = layer.weight[0].numel() ** -0.5
        assert 0.95 * limit < layer.weight.abs().max() <= limit, name
        assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05), name
        assert 0 < layer.bias.abs().max() <= limit, name


def test_the_papers_start():
    for name, layer in layers(network("fan_avg")).items():
        assert not layer.bias.any(), name
        assert (layer.weight.abs().max() < 1e-5) == name.endswith(LAST), name


@pytest.mark.parametrize("init", ["fan_avg", "torch_zero", "torch"])
def test_norms_and_class_tables_start_alike(init):
    made = network(init)
    for module in made.modules():
        if isinstance(module, torch.nn.GroupNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert made.class_embedding.table.weight.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("init", "silent"), [("fan_avg", False), ("torch_zero", True), ("torch", False)])
def test_zeros_make_the_first_output_zero(init, silent):
    out = network(init)(torch.randn(1, 3, 8, 8), torch.tensor([3.0]))
    assert (out == 0).all() == silent
