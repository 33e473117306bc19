"""A model of onnxruntime answers as the model it was made from, and says what it cannot do."""

import importlib.util
from dataclasses import replace
from functools import cache
from itertools import islice

import jaxtyping
import numpy as np
import pytest
import torch

import undye
from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.runtimes import accelerated

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from undye.runtimes.onnx_network import write_network  # noqa: E402
from undye.runtimes.quantise import BATCH, calibration_inputs, quantise  # noqa: E402

TINY = ModelConfig(
    network=CompactConfig(channels=(8, 16), blocks=(0, 1), head_channels=8),
    image_size=(8, 8), channels=1, prediction="v", schedule=ScheduleConfig(name="cosine", num_steps=50),
    num_classes=3, variance="learned_range",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _no_shape_checks():
    """The checks of shapes that tests switch on would look into the tensors of a trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def lively(config):
    torch.manual_seed(0)
    denoiser = Denoiser.from_config(config).eval()
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return denoiser


@cache
def pair():
    """A model with labels, and the same in float32 by the runtime: made once."""
    denoiser = lively(TINY)
    denoiser.grids = {1: "kept"}
    return denoiser, accelerated(denoiser)


@cache
def int8():
    return accelerated(pair()[0], precision="int8", calibration=pictures(40))


def pictures(n, size=8):
    """Smooth pictures: two waves of random phase."""
    draw, at = np.random.default_rng(0), np.arange(size) / size
    waves = np.sin(2 * np.pi * (at + draw.random((n, 2, 1))))
    return np.uint8(127.5 + 60 * (waves[:, 0, :, None] + waves[:, 1, None, :]))[..., None]


def call(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.linspace(0.5, 50, n), torch.arange(n) % 4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_float32_is_the_model_for_any_batch(batch):
    denoiser, fast = pair()
    x_t, t, label = call(batch)
    with torch.no_grad():
        for given in (label, None):
            one, other = denoiser(x_t, t, given), fast(x_t, t, given)
            for name in ("x_0", "eps", "var_fraction"):
                torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(fast(x_t, t, label).x_0[0], fast(x_t, t).x_0[0], atol=1e-4)


def test_it_samples_the_same_images_with_its_own_grids():
    denoiser, fast = pair()
    assert fast.grids == denoiser.grids
    assert fast.grids is not denoiser.grids
    assert not fast.training
    one, other = (undye.sample(m, 3, "ddim", 4, label=1, guidance=2.0) for m in (denoiser, fast))
    assert np.abs(one.astype(int) - other).max() <= 1


def test_int8_is_close_but_not_the_same():
    denoiser, _ = pair()
    x_t, t, label = call(8)
    with torch.no_grad():
        one, other = denoiser(x_t, t, label), int8()(x_t, t, label)
    error = ((one.x_0 - other.x_0).norm() / one.x_0.norm()).item()
    assert 1e-5 < error < 0.05, error


def test_int8_only_inside_and_not_where_the_stream_is_read(tmp_path):
    path, out = tmp_path / "float32.onnx", tmp_path / "int8.onnx"
    write_network(pair()[0].network, TINY, path)
    quantise(path, out, islice(calibration_inputs(pair()[0], pictures(3)), 1))
    graph = onnx.load(out).graph
    made = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    low = [i for i, node in enumerate(convolutions) if getattr(made.get(node.input[1]), "op_type", "") != ""]
    # of stem, fold, qkv, proj and the two of each block, unfold, join, head: the 3x3 of the block
    assert [tuple(graph_shape(graph, made[convolutions[i].input[1]])[2:]) for i in low] == [(3, 3), (3, 3)]
    assert 0 not in low
    assert len(convolutions) - 1 not in low


def graph_shape(graph, node):
    """The shape of the weights that a node makes floats of."""
    return next(tensor.dims for tensor in graph.initializer if tensor.name == node.input[0])


def test_calibration_covers_all_times_evenly_and_all_labels():
    denoiser, _ = pair()
    batches = list(calibration_inputs(denoiser, pictures(5)))
    for _, t, _ in batches:
        # zero-based times of 50, one in each sixteenth
        assert ((t * BATCH / 50).round() - torch.arange(BATCH)).abs().max() <= 1
    assert {int(k) for *_, label in batches for k in label} == {0, 1, 2, 3}
    again = list(calibration_inputs(denoiser, pictures(5)))
    assert all(
        torch.equal(a, b) for one, two in zip(batches, again, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_no_gradients_and_no_other_device():
    _, fast = pair()
    x_t, t, label = call(2)
    with pytest.raises(undye.UserError, match="no gradients"):
        fast(x_t.requires_grad_(), t, label)
    with pytest.raises(undye.UserError, match="on the CPU"):
        fast.network(torch.empty(2, 1, 8, 8, device="meta"), t, label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "float32, int8"),
        ({"precision": "int8"}, "needs images"),
        ({"precision": "int8", "calibration": pictures(0)}, "needs images"),
        ({"precision": "int8", "calibration": pictures(4, 10)}, "8x8"),
        ({"precision": "int8", "calibration": pictures(4) / 255}, "uint8"),
        ({"calibration": pictures(4)}, "leave them out"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(undye.UserError, match=message) as caught:
        accelerated(pair()[0], **options)
    assert "\n" not in str(caught.value)


def test_a_missing_package(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(undye.UserError, match=r"needs onnxscript: pip install 'undye\[onnx\]'"):
        accelerated(pair()[0])


class Odd(torch.nn.Module):
    """What no graph can say: a decision that depends on the numbers."""

    def forward(self, x, t, label=None):
        return x if x.sum() > 0 else t.view(-1, 1, 1, 1) * x


def test_a_network_that_cannot_be_written():
    config = replace(TINY, num_classes=None, variance="fixed_small")
    with pytest.raises(undye.UserError, match="cannot write") as caught:
        accelerated(Denoiser(Odd(), config))
    assert "\n" not in str(caught.value)


def test_a_program_that_computes_something_else(monkeypatch):
    monkeypatch.setattr("undye.runtimes.onnx_model.disagreement", lambda run, denoiser: 2e-4)
    with pytest.raises(RuntimeError, match="of its scale: a bug"):
        accelerated(lively(replace(TINY, num_classes=None)))


def test_the_model_stays_as_it_is():
    denoiser = lively(replace(TINY, num_classes=None))
    denoiser.train()
    weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
    accelerated(denoiser)
    assert denoiser.training
    assert all(p.requires_grad for p in denoiser.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in denoiser.state_dict().items())
