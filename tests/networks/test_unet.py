"""The published U-Net: its size, its start, its parts."""

import math

import pytest
import torch
from torch import nn

from undye.config import UNetConfig
from undye.denoiser import Denoiser
from undye.networks.initialisation import init_fan_avg
from undye.networks.padding import crop_like, pad_to_multiple
from undye.networks.resample import Downsample, Upsample
from undye.networks.unet import UNet


@pytest.mark.parametrize(
    ("preset", "count"),
    [("ddpm-cifar10", 35_746_307), ("ddpm-256", 113_673_219), ("ddpm-256-large", 255_677_955)],
)
def test_parameter_counts(preset, count):
    with torch.device("meta"):
        network = Denoiser.from_preset(preset).network
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    "layer", [lambda: nn.Conv2d(64, 192, 3), lambda: nn.Conv2d(192, 64, 1), lambda: nn.Linear(128, 512)]
)
@pytest.mark.parametrize("scale", [1.0, 0.0, 0.25])
def test_init_is_uniform_of_fan_avg_variance(layer, scale):
    made = init_fan_avg(layer(), scale)
    fan_out, fan_in = made.weight.shape[0], made.weight[0].numel()
    if made.weight.ndim == 4:
        fan_out *= made.weight[0, 0].numel()
    variance = (scale or 1e-10) / ((fan_in + fan_out) / 2)
    weight = made.weight.detach().double()
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    limit = math.sqrt(3 * variance)
    assert 0.99 * limit < weight.abs().max() <= limit * (1 + 1e-6)
    assert (made.bias == 0).all()


def test_which_layers_start_at_nothing():
    network = UNet(UNetConfig(base_channels=32), 3, 3)
    small = {name for name, p in network.named_parameters() if p.ndim > 1 and p.abs().max() < 1e-4}
    expected = {n for n, _ in network.named_parameters() if n.endswith(("conv2.weight", "proj_out.weight"))}
    assert small == expected | {"conv_out.weight"}


def test_where_attention_is():
    network = UNet(UNetConfig(base_channels=32), 3, 3)
    places = {name.removesuffix(".proj_out.weight") for name, _ in network.named_parameters() if "proj_out.w" in name}
    down = {f"down.1.attentions.{i}" for i in range(2)}
    # the way up starts at the lowest level: level 1 of 4 is its third stage
    assert places == down | {f"up.2.attentions.{i}" for i in range(3)} | {"middle_attention"}


def test_downsampling_pads_right_and_bottom():
    """TensorFlow's SAME: output i sees pixels 2i, 2i + 1, 2i + 2."""
    layer = Downsample(1)
    nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[0, 0, 2, 0] = 1
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert layer(x).flatten().tolist() == [8, 10, 0, 0]


def test_upsampling_repeats_pixels():
    layer = Upsample(1)
    nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[0, 0, 1, 1] = 1
    assert layer(torch.tensor([[[[1.0, 2.0]]]])).flatten().tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


@pytest.mark.parametrize("multiple", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("size", [(28, 28), (7, 5), (48, 32), (1, 1)], ids=str)
def test_padding(multiple, size):
    x = 1 + torch.rand(2, 3, *size)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - size[0] < multiple
    assert padded.shape[3] - size[1] < multiple
    assert torch.equal(crop_like(padded, x, multiple), x)
    assert padded.sum() == pytest.approx(x.sum().item(), rel=1e-5)
    # split evenly: with an even margin, a flip before padding is a flip after it
    for axis in (2, 3):
        if (padded.shape[axis] - x.shape[axis]) % 2 == 0:
            assert torch.equal(pad_to_multiple(x.flip(axis), multiple), padded.flip(axis))


def test_swish_norms_and_groups_are_the_papers():
    network = UNet(UNetConfig(), 3, 3)
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert {(m.num_groups, m.eps) for m in norms} == {(32, 1e-6)}
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.1}
