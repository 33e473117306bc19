"""What all networks keep: any size, any channels, labels, gradients, layouts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from undye.config import CompactConfig, UNetConfig
from undye.denoiser import Denoiser, channels_last
from undye.networks import build_network
from undye.presets import MODEL_PRESETS

# the presets' own kinds and depths, made narrow
SMALL = {
    "cpu": CompactConfig(channels=(16, 24), blocks=(1, 2), head_channels=8),
    "compact, three levels": CompactConfig(channels=(8, 16, 24), blocks=(1, 1, 2), head_channels=0),
    "ddpm-cifar10": replace(UNetConfig(), base_channels=16, norm_groups=8, dropout=0.0),
    "ddpm-256": replace(
        UNetConfig(),
        base_channels=8,
        norm_groups=4,
        dropout=0.0,
        channel_mult=(1, 1, 2, 2, 4, 4),
        attention_levels=(4,),
    ),
    "openai": UNetConfig(
        base_channels=16,
        channel_mult=(0.5, 1),
        stem_channels=8,
        num_res_blocks=1,
        norm_groups=4,
        dropout=0.0,
        head_channels=4,
        scale_shift_norm=True,
        resample="resblock",
        time_order="cos_sin",
        time_denominator="half",
        init="torch_zero",
    ),
    "pool": UNetConfig(base_channels=8, channel_mult=(1, 2), norm_groups=4, dropout=0.0, num_heads=2, resample="pool"),
}
every_network = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)


def lively(config, channels=3, out_channels=3, num_classes=None):
    """A network whose last layers are not still at (nearly) nothing."""
    torch.manual_seed(1)
    network = build_network(config, channels, out_channels, num_classes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


@every_network
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (7, 5), (48, 32), (1, 1)], ids=str)
def test_any_size(config, channels, size):
    network = lively(config, channels, 2 * channels)
    with torch.no_grad():
        out = network(torch.randn(2, channels, *size), torch.tensor([0.0, 999.0]))
    assert out.shape == (2, 2 * channels, *size)
    assert out.isfinite().all()
    assert out.std() > 1e-3


@every_network
def test_examples_do_not_see_each_other(config):
    network, x, t = lively(config), torch.randn(3, 3, 12, 8), torch.tensor([5.0, 300.0, 900.0])
    with torch.no_grad():
        together = network(x, t)
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
        other_times = network(x, t.flip(0))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (other_times[0] - together[0]).abs().max() > 1e-3


@every_network
def test_labels(config):
    network, x, t = lively(config, num_classes=3), torch.randn(2, 3, 8, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        null = network(x, t)
        by_label = [network(x, t, torch.full((2,), label)) for label in range(4)]
        mixed = network(x, t, torch.tensor([2, 0]))
    assert torch.equal(null, by_label[3])
    for first in range(4):
        for second in range(first):
            assert (by_label[first] - by_label[second]).abs().amax((1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(mixed[0], by_label[2][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1], by_label[0][1], rtol=1e-4, atol=1e-5)


@every_network
def test_without_classes_there_is_no_table(config):
    assert not any("class" in name for name, _ in build_network(config, 1, 1, None).named_parameters())


@every_network
def test_gradients_reach_every_parameter(config):
    network = lively(config, num_classes=2).train()
    out = network(torch.randn(4, 3, 16, 16), torch.tensor([3.0, 99.0, 500.0, 900.0]), torch.tensor([0, 1, 2, 0]))
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@every_network
def test_channels_last_gives_the_same(config):
    network, x, t = lively(config), torch.randn(2, 3, 12, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        plain = network(x, t)
        network.to(memory_format=torch.channels_last)
        assert any(
            not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
            for p in network.parameters()
            if p.ndim == 4
        )
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(network(given, t), plain, rtol=1e-4, atol=2e-5)


def test_channels_last_of_a_denoiser_returns_it():
    denoiser = Denoiser.from_config(replace(MODEL_PRESETS["cpu"], network=SMALL["cpu"]))
    assert channels_last(denoiser) is denoiser
    assert denoiser.network.stem.weight.is_contiguous(memory_format=torch.channels_last)


@every_network
def test_float64_gives_the_same(config):
    network, x, t = lively(config), torch.randn(2, 3, 12, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        narrow, wide = network(x, t), network.double()(x.double(), t)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-4)


@every_network
def test_dropout_is_off_in_eval_and_on_in_training(config):
    network, x, t = lively(replace(config, dropout=0.5)), torch.randn(1, 3, 8, 8), torch.tensor([5.0])
    with torch.no_grad():
        assert torch.equal(network(x, t), network(x, t))
        network.train()
        assert not torch.equal(network(x, t), network(x, t))


@every_network
def test_a_new_network_does_not_see_the_image(config):
    """Its last layer's weights start at (nearly) zero."""
    network, t = build_network(config, 3, 3, None), torch.tensor([5.0, 900.0])
    assert (network(torch.randn(2, 3, 16, 16), t) - network(torch.randn(2, 3, 16, 16), t)).abs().max() < 1e-3


def test_presets_networks_are_of_these_kinds():
    kinds = {type(config.network) for config in MODEL_PRESETS.values()}
    assert kinds <= {type(config) for config in SMALL.values()}
    assert all(isinstance(build_network(c, 1, 1, None), nn.Module) for c in SMALL.values())
