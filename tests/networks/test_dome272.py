"""What the network of dome272 keeps of what all networks keep, and what is its own."""

import re

import pytest
import torch
from torch import nn

from tests.networks import test_both_networks as laws
from tests.networks import test_compile
from undye.config import Dome272Config, ModelConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.networks import Dome272UNet, build_network
from undye.networks.dome272 import DoubleConv, SelfAttention
from undye.samplers.guidance import Conditioned
from undye.structure import structure, unstructure

SMALL = Dome272Config(base_channels=8, emb_channels=32)


@pytest.mark.parametrize(
    "law",
    [
        laws.test_examples_do_not_see_each_other,
        laws.test_labels,
        laws.test_without_classes_there_is_no_table,
        laws.test_gradients_reach_every_parameter,
        laws.test_channels_last_gives_the_same,
        laws.test_float64_gives_the_same,
    ],
)
def test_keeps_what_all_networks_keep(law):
    law(SMALL)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (7, 5), (48, 32), (1, 1)], ids=str)
def test_any_size(channels, size):
    laws.test_any_size(SMALL, channels, size)


def test_bf16_autocast_is_close_to_float32():
    network, x, t = laws.lively(SMALL), torch.randn(2, 3, 16, 16), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        full = network(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x, t)
    assert not torch.equal(half.float(), full)
    assert (half - full).norm() < 0.05 * full.norm()


def test_attention_is_pytorchs():
    """In its numbers, and in its start."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    torch.manual_seed(0)
    block = SelfAttention(16, 4)
    with torch.no_grad():
        assert block.qkv.weight.abs().max() <= (6 / 64) ** 0.5 < 1.1 * block.qkv.weight.abs().max()
        assert not block.qkv.bias.any()
        assert not block.proj.bias.any()
        for bias in (theirs.in_proj_bias, theirs.out_proj.bias):
            bias.normal_()
        block.qkv.weight.copy_(theirs.in_proj_weight)
        block.qkv.bias.copy_(theirs.in_proj_bias)
        block.proj.load_state_dict(theirs.out_proj.state_dict())
        block.fc2.weight.zero_()
        block.fc2.bias.zero_()
        x = torch.randn(2, 16, 3, 5)
        tokens = x.flatten(2).transpose(1, 2)
        normed = block.norm1(tokens)
        expected = tokens + theirs(normed, normed, normed)[0]
        torch.testing.assert_close(block(x), expected.transpose(1, 2).reshape(x.shape))


def test_double_convolutions():
    x = torch.randn(2, 4, 5, 5)
    plain = DoubleConv(4, 4)
    residual = DoubleConv(4, 4, residual=True)
    residual.load_state_dict(plain.state_dict())
    torch.testing.assert_close(residual(x), nn.functional.gelu(x + plain(x)))
    assert [n for n, _ in plain.named_parameters() if "conv" in n] == ["conv1.weight", "conv2.weight"]


def test_no_class_adds_nothing():
    """The null label has no weights: what a network with classes gives for it is what one without them gives."""
    network = laws.lively(SMALL, num_classes=3)
    without = build_network(SMALL, 3, 3, None).eval()
    weights = network.state_dict()
    assert weights.pop("class_embedding.weight").shape == (3, 32)
    without.load_state_dict(weights)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, torch.tensor([3, 3])), without(x, t))
        torch.testing.assert_close(network(x, t), without(x, t))


def test_training_moves_the_rows_of_the_classes_alone():
    network = build_network(SMALL, 3, 3, 3)
    network(torch.randn(2, 3, 8, 8), torch.tensor([5.0, 900.0]), torch.tensor([1, 3])).square().sum().backward()
    assert network.class_embedding.weight.grad.any(dim=1).tolist() == [False, True, False]


def test_a_model_without_null_label():
    config = ModelConfig(network=SMALL, image_size=(8, 8), num_classes=3, null_label=False)
    model, x_t, t = Denoiser.from_config(config).eval(), torch.randn(2, 3, 8, 8), torch.tensor([5, 900])
    label = torch.tensor([0, 2])
    assert torch.equal(Conditioned(model, label)(x_t, t).eps, model(x_t, t, label).eps)
    with pytest.raises(UserError, match="knows no null label"):
        model.network(x_t, t.float())


def test_the_layers_that_face_the_image():
    network = build_network(SMALL, 1, 2, None)
    stem, head = (getattr(network, name) for name in network.edge_layers)
    assert (stem.conv1.in_channels, head.out_channels) == (1, 2)
    assert isinstance(network, Dome272UNet)


def test_a_new_network_learns():
    torch.manual_seed(0)
    network, x = build_network(SMALL, 3, 3, None), torch.randn(4, 3, 8, 8)
    t, target = torch.tensor([5.0, 300.0, 600.0, 900.0]), torch.randn(4, 3, 8, 8)
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-2), []
    for _ in range(30):
        loss = (network(x, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 3
    assert losses[-1] < 0.5 * losses[0]


def test_goes_to_plain_data_and_back():
    config = ModelConfig(network=SMALL)
    assert structure(ModelConfig, unstructure(config), "here") == config
    assert config.network.kind == "dome272"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "64 base channels do not divide into 3 heads"),
        ({"num_heads": 0}, "do not divide into 0 heads"),
        ({"base_channels": 0}, "0 base channels"),
        ({"emb_channels": 7}, "must be even, for as many sines as cosines: got 7"),
        ({"emb_channels": 0}, "got 0"),
    ],
    ids=str,
)
def test_settings_that_make_no_network(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Dome272Config(**settings)


def test_compiles_without_graph_breaks_and_exports():
    test_compile.run(
        """
        from undye.config import Dome272Config
        config = Dome272Config(base_channels=8, emb_channels=16)
        check_compile(config, "eager")
        check_export(config)
        """
    )
