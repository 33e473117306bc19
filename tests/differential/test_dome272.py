"""Our network against what dome272's own code computed (tests/golden/dome272_*.npz), with weights by a stated rule."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.make_dome272 import MODELS, NUM_CLASSES, SEEN, images, inputs, part, stand_in, weight
from undye.config import Dome272Config, ModelConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.networks.dome272 import Dome272UNet, encoding
from undye.networks.embedding import sinusoidal
from undye.networks.names_dome272 import dome272_name, dome272_shapes, from_dome272_weights

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def theirs(name):
    """Their state dict in float64, and what came out, by name."""
    with np.load(GOLDEN / f"dome272_{name}.npz") as file:
        lines = file["weights"].tobytes().decode().splitlines()
        expected = {key: torch.from_numpy(file[key]) for key in ("output", "gradient")}
    shapes = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in lines}
    return {key: torch.from_numpy(weight(key, shape)) for key, shape in shapes.items()}, expected


def translated(weights, name):
    width, channels, _, _, classes, _ = MODELS[name]
    return from_dome272_weights(
        weights, dome272_shapes(Dome272Config(base_channels=width), channels, channels, classes)
    )


def run(name, dtype):
    """Our output and its gradient by the image, for the cotangent of the rule."""
    width, channels, _, _, classes, _ = MODELS[name]
    with torch.device("meta"):
        network = Dome272UNet(Dome272Config(base_channels=width), channels, channels, classes).eval()
    weights = translated(theirs(name)[0], name)
    network.load_state_dict({k: v.to(dtype) for k, v in weights.items()}, assign=True)
    x, t, label = inputs(name)
    x = x.to(dtype).requires_grad_()
    out = network(x, t.double(), label)
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return part(out.detach()), part(x.grad)


def difference(one, other):
    return ((one - other).abs().max() / other.abs().max()).item()


@every_model
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_same_outputs_and_gradients(name, dtype, tolerance):
    expected = theirs(name)[1]
    output, gradient = run(name, dtype)
    assert difference(output, expected["output"]) < tolerance
    assert difference(gradient, expected["gradient"]) < tolerance


def test_a_label_makes_a_difference():
    """Else the two cases above would be one."""
    assert difference(theirs("labels")[1]["output"], theirs("no_labels")[1]["output"]) > 0.01


@pytest.mark.parametrize(
    ("channels", "num_classes", "count"), [(3, None, 23_332_739), (1, None, 23_331_457), (3, 10, 23_335_299)]
)
def test_parameter_counts_of_their_networks(channels, num_classes, count):
    """Counted with their code: UNet(), UNet(1, 1), UNet_conditional(num_classes=10)."""
    shapes = dome272_shapes(Dome272Config(), channels, channels, num_classes)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


def test_encoding():
    """The usual one up to rounding, which a test with 1e-9 does not forgive."""
    t = torch.arange(1000.0)
    usual = sinusoidal(t, 256, denominator="half")
    assert (encoding(t, 256) - usual).abs().max() < 1e-4
    exact = 7.0 * 1e4 ** (-2 * np.arange(128) / 256)
    np.testing.assert_allclose(encoding(t, 256)[7], np.r_[np.sin(exact), np.cos(exact)], atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stem.conv1.weight", "inc.double_conv.0.weight"),
        ("down.0.block1.norm2.bias", "down1.maxpool_conv.1.double_conv.4.bias"),
        ("down.2.block2.conv2.weight", "down3.maxpool_conv.2.double_conv.3.weight"),
        ("down.1.emb_proj.bias", "down2.emb_layer.1.bias"),
        ("down.1.attention.qkv.bias", "sa2.mha.in_proj_bias"),
        ("middle.1.norm1.weight", "bot2.double_conv.1.weight"),
        ("up.0.block1.conv1.weight", "up1.conv.0.double_conv.0.weight"),
        ("up.2.block2.conv1.weight", "up3.conv.1.double_conv.0.weight"),
        ("up.1.emb_proj.weight", "up2.emb_layer.1.weight"),
        ("up.0.attention.norm1.weight", "sa4.ln.weight"),
        ("up.2.attention.proj.bias", "sa6.mha.out_proj.bias"),
        ("up.2.attention.fc2.bias", "sa6.ff_self.3.bias"),
        ("head.bias", "outc.bias"),
        ("class_embedding.weight", "label_emb.weight"),
    ],
)
def test_names(ours, theirs):
    assert dome272_name(ours) == theirs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("sa3.mha.in_proj_bias"), "weight 'sa3.mha.in_proj_bias' is missing"),
        (lambda w: w.update(ema=torch.ones(1)), r"weight 'ema' belongs to no part of the model \(1 in all\)"),
        (lambda w: w.update({"outc.bias": torch.ones(4)}), r"'outc.bias' has shape \(4,\), the model needs \(3,\)"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    weights = dict(theirs("labels")[0])
    assert weights["label_emb.weight"].shape == (NUM_CLASSES, 256)
    change(weights)
    with pytest.raises(UserError, match=message):
        translated(weights, "labels")


def test_their_sampler_takes_the_means_that_follow_from_eps():
    """Theirs, without its noise, is our posterior's mean, unclipped, from t = 1000 (their 999) to t = 2 (their 1)."""
    config = ModelConfig(clip_x_0=False, time_input="zero_based", image_size=(4, 4))
    denoiser = Denoiser(Network(), config)
    x = torch.from_numpy(images((4, 4)))
    with np.load(GOLDEN / "dome272_sampler.npz") as file:
        for index in range(999, 0, -1):
            if index in SEEN:
                assert difference(x, torch.from_numpy(file[f"before_{index}"])) < 1e-9, index
            t = torch.full((len(x),), index + 1)
            x = denoiser.process.posterior(denoiser(x, t).x_0, x, t).mean
        assert difference(x, torch.from_numpy(file["last"])) < 1e-9


class Network(torch.nn.Module):
    def forward(self, x, t, label=None):
        return stand_in(x, t)
