"""Models whose table of classes has no row for no class, as OpenAI's and diffusers'."""

from dataclasses import replace

import pytest
import torch

from undye.config import CompactConfig, ModelConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.networks import build_network
from undye.networks.embedding import ClassEmbedding
from undye.samplers.guidance import Conditioned

CONFIGS = [
    UNetConfig(base_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4),
    CompactConfig(channels=(8, 8), blocks=(1, 1), head_channels=0),
]
both_networks = pytest.mark.parametrize("network", CONFIGS, ids=lambda config: config.kind)


def denoiser(network, **settings):
    return Denoiser.from_config(ModelConfig(network=network, image_size=(8, 8), num_classes=3, **settings)).eval()


def test_a_table_without_a_null_row():
    table = ClassEmbedding(3, 5, null_label=False)
    assert table.table.weight.shape == (3, 5)
    assert torch.equal(table(torch.tensor([2, 0]), 2), table.table.weight[[2, 0]])
    with pytest.raises(UserError, match="knows no null label"):
        table(None, 2)


@both_networks
def test_the_network_needs_a_label(network):
    made = build_network(network, 3, 3, 3, null_label=False)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5.0, 900.0])
    assert made(x, t, torch.tensor([0, 2])).shape == x.shape
    with pytest.raises(UserError, match="knows no null label"):
        made(x, t)


@both_networks
def test_the_denoiser_says_which_labels_there_are(network):
    model, x_t, t = denoiser(network, null_label=False), torch.randn(2, 3, 8, 8), torch.tensor([5, 900])
    assert model(x_t, t, torch.tensor([0, 2])).eps.shape == x_t.shape
    with pytest.raises(UserError, match=r"knows no null label: give it the class of each image, 0\.\.2"):
        model(x_t, t)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2$"):
        model(x_t, t, torch.tensor([0, 3]))
    with_null = denoiser(network)
    with_null(x_t, t, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2 \(3: none\)$"):
        with_null(x_t, t, torch.tensor([0, 4]))


@both_networks
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_guidance_needs_a_null_label(network, weight):
    label = torch.tensor([0, 2])
    with pytest.raises(UserError, match="nothing to guide away from"):
        Conditioned(denoiser(network, null_label=False), label, weight)
    model, x_t, t = denoiser(network, null_label=False), torch.randn(2, 3, 8, 8), torch.tensor([5, 900])
    assert torch.equal(Conditioned(model, label)(x_t, t).eps, model(x_t, t, label).eps)


def test_null_label_is_for_models_with_classes():
    with pytest.raises(UserError, match="null_label is for models with classes"):
        ModelConfig(null_label=False)
    assert replace(ModelConfig(num_classes=2), null_label=False).num_classes == 2
