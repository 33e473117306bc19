"""What the network for lucidrains' models shares with the others: any size, labels, layouts, compiling, training."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from undye.config import LucidrainsConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser, channels_last
from undye.errors import UserError
from undye.networks import build_network
from undye.structure import structure, unstructure

SMALL = LucidrainsConfig(base_channels=8, channel_mult=(1, 2, 2), head_channels=(4,))
CLASSES = replace(SMALL, attention_levels=(), memory=0, downsample="conv")
every_network = pytest.mark.parametrize("config", [SMALL, CLASSES], ids=["fold", "conv"])


def made(config, channels=3, out_channels=3, num_classes=None):
    torch.manual_seed(1)
    return build_network(config, channels, out_channels, num_classes)


@every_network
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (7, 5), (24, 16), (1, 1)], ids=str)
def test_any_size(config, channels, size):
    network = made(config, channels, 2 * channels).eval()
    x = torch.randn(2, channels, *size)
    out = network(x, torch.tensor([0.0, 999.0]))
    assert out.shape == (2, 2 * channels, *size)
    assert out.isfinite().all()
    assert not torch.equal(out, network(x, torch.tensor([0.0, 998.0])))


@every_network
def test_a_padded_image_is_the_middle_of_a_larger_one(config):
    network = made(config).eval()
    x, t = torch.randn(1, 3, 6, 8), torch.tensor([5.0])
    around = torch.zeros(1, 3, 8, 8)
    around[:, :, 1:7] = x
    torch.testing.assert_close(network(x, t), network(around, t)[:, :, 1:7])


@every_network
def test_layouts_and_batches_do_not_change_the_numbers(config):
    network = made(config, num_classes=4).double().eval()
    x = torch.randn(3, 3, 8, 12, dtype=torch.float64)
    t, label = torch.tensor([1.0, 500.0, 999.0]), torch.tensor([0, 4, 2])
    expected = network(x, t, label)
    one = torch.cat([network(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-12)
    network.to(memory_format=torch.channels_last)
    other = network(x.to(memory_format=torch.channels_last), t, label)
    torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-12)
    assert other.is_contiguous(memory_format=torch.channels_last)


@every_network
def test_no_label_is_the_null_label(config):
    network = made(config, num_classes=4).eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 500.0])
    assert torch.equal(network(x, t), network(x, t, torch.tensor([4, 4])))
    assert not torch.equal(network(x, t), network(x, t, torch.tensor([4, 3])))


def test_without_a_null_label_classes_must_be_said():
    network = build_network(CLASSES, 3, 3, 4, null_label=False)
    assert network.class_embedding.table.weight.shape == (4, 8)
    with pytest.raises(UserError, match="null label"):
        network(torch.randn(1, 3, 8, 8), torch.tensor([1.0]))


@every_network
def test_every_weight_learns(config):
    network = made(config, num_classes=3)
    network(torch.randn(4, 3, 8, 8), torch.rand(4) * 999, torch.tensor([0, 1, 2, 3])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_fresh_model_learns_one_image():
    config = ModelConfig(
        network=SMALL, image_size=(8, 8), channels=1, prediction="v", schedule=ScheduleConfig(name="sigmoid_alpha_bar")
    )
    torch.manual_seed(0)
    denoiser = channels_last(Denoiser.from_config(config)).train()
    x_0 = torch.sign(torch.randn(1, 1, 8, 8)).expand(16, -1, -1, -1)
    optimizer, losses = torch.optim.Adam(denoiser.parameters(), 3e-3), []
    for _ in range(30):
        t, eps = torch.randint(1, 1001, (16,)), torch.randn(16, 1, 8, 8)
        loss = (denoiser(denoiser.process.q_sample(x_0, t, eps), t).x_0 - x_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3 * sum(losses[:2]) / 2


def test_edge_layers_face_the_image():
    network = made(SMALL, 1, 2)
    first, last = (getattr(network, name) for name in network.edge_layers)
    assert (first.in_channels, last.out_channels) == (1, 2)


def test_dropout_drops_in_training_alone():
    config = replace(SMALL, dropout=0.5)
    network, x, t = made(config), torch.randn(1, 3, 8, 8), torch.tensor([5.0])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))
    assert torch.equal(network(x, t), made(SMALL).eval()(x, t))


def step(config):
    """Output, gradients, and how many bytes were kept from the forward to the backward pass."""
    network, kept = made(config, num_classes=2).train(), {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(x, torch.tensor([3.0, 800.0]), torch.tensor([0, 2]))
    out.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()} | {"x": x.grad}
    return out.detach(), gradients, sum(size for at, size in kept.items() if at not in weights)


@every_network
def test_checkpointing_gives_the_same_with_less_kept(config):
    config = replace(config, dropout=0.3)
    out, gradients, kept = step(config)
    out_again, gradients_again, kept_again = step(replace(config, checkpointing=True))
    assert torch.equal(out, out_again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    assert kept_again < kept / 2


def test_bfloat16_under_autocast():
    network, x, t = made(SMALL).eval(), torch.randn(2, 3, 8, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        expected = network(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            out = network(x, t)
        assert (out - expected).abs().max() < 0.1 * expected.abs().max()
        half = network.bfloat16()(x.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_configuration_survives_being_written():
    model = ModelConfig(network=replace(SMALL, num_heads=(1, 2, 4), middle_num_heads=2, attention_levels=(0, 2)))
    assert structure(ModelConfig, unstructure(model), "config") == model


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channel_mult": ()}, "at least one level"),
        ({"channel_mult": (1, 0)}, "at least one level"),
        ({"stem_channels": 0}, "at least one level"),
        ({"base_channels": 7}, "even and at least 4"),
        ({"base_channels": 2}, "even and at least 4"),
        ({"num_heads": (1, 2)}, "num_heads is one number or 4"),
        ({"num_heads": ()}, "num_heads is one number or 4"),
        ({"head_channels": (0,)}, "head_channels is one number or 4"),
        ({"middle_num_heads": 0}, "middle_num_heads"),
        ({"attention_levels": (4,)}, "there is no level 4"),
        ({"memory": -1}, "memory"),
        ({"max_period": float("nan")}, "max_period"),
        ({"max_period": 0.0}, "max_period"),
        ({"dropout": 1.0}, "dropout"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(change, says):
    with pytest.raises(UserError, match=says):
        LucidrainsConfig(**change)


SCRIPT = """
import torch
from undye.config import LucidrainsConfig
from undye.networks import build_network

torch.set_num_threads(1)
# with learned keys and values, which are repeated for each image of the batch
small = LucidrainsConfig(base_channels=8, channel_mult=(1, 2), head_channels=(4,), self_condition=True)


def made(config):
    torch.manual_seed(0)
    return build_network(config, 3, 6, 4)


def batch(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, 9, 8, generator=generator)
    return x, 999 * torch.rand(n, generator=generator), torch.randint(5, (n,), generator=generator)


def step(function, network):
    out = function(*batch(2))
    return out, torch.autograd.grad(out.square().sum(), list(network.parameters()))


def check_compile(config):
    network = made(config).train()
    out, gradients = step(network, network)
    out_compiled, gradients_compiled = step(torch.compile(network, fullgraph=True, backend="eager"), network)
    torch.testing.assert_close(out_compiled, out)
    for one, other in zip(gradients_compiled, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def check_export(config):
    network, any_number = made(config).eval(), torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(network, batch(2), dynamic_shapes=({0: any_number},) * 3).module()
        for n in (2, 5):
            torch.testing.assert_close(exported(*batch(n)), network(*batch(n)))
"""


def test_compile_has_no_graph_breaks_and_export_takes_any_batch():
    """In a process without the shape checks, which break graphs."""
    script = SCRIPT + textwrap.dedent(
        """
        check_compile(small)
        check_export(small)
        """
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
