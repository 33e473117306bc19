"""Activation checkpointing: the same numbers, fewer of them kept."""

from dataclasses import replace

import pytest
import torch

from undye.config import CompactConfig, UNetConfig
from undye.networks import build_network
from undye.networks.unet import UNet

CONFIG = UNetConfig(base_channels=8, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=4, dropout=0.3)


def step(config):
    """Output, gradients, and how many bytes were kept from the forward to the backward pass."""
    torch.manual_seed(1)
    network = build_network(config, 3, 3, num_classes=2).train()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(x, torch.tensor([3.0, 800.0]), torch.tensor([0, 2]))
    out.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()} | {"x": x.grad}
    return out.detach(), gradients, sum(size for at, size in kept.items() if at not in weights)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, resample="resblock"), CompactConfig(channels=(8, 16), blocks=(2, 3), dropout=0.3)],
    ids=["conv", "resblock", "compact"],
)
def test_same_output_and_gradients_with_less_kept(config):
    """Also with dropout, which must drop the same features when they are computed again."""
    out, gradients, kept = step(config)
    out_again, gradients_again, kept_again = step(replace(config, checkpointing=True))
    assert torch.equal(out, out_again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    assert kept_again < kept / 2


def test_nothing_changes_without_gradients():
    config = replace(CONFIG, dropout=0.0)
    one, other = UNet(config, 1, 1), UNet(replace(config, checkpointing=True), 1, 1)
    other.load_state_dict(one.state_dict())
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([5.0])
    with torch.no_grad():
        assert torch.equal(one(x, t), other(x, t))
