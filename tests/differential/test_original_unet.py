"""Our U-Net against what the conversions of Ho et al.'s models computed (tests/golden/original_*.npz)."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.openai_models import images, part, weight
from tests.golden.original_models import MODELS, PUBLISHED, STEPS, TIMES, features, read_shapes
from undye.checkpoint.original import read_spec
from undye.config import ModelConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.networks.names_original import from_original_weights, original_name
from undye.networks.spec import UNetSpec
from undye.presets import model_preset
from undye.samplers.ancestral import Ancestral

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("name", MODELS)
both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)


@cache
def theirs(name):
    """Their state dict in float64, and what came out, by name."""
    with np.load(GOLDEN / f"original_{name}.npz") as file:
        expected = {key: torch.from_numpy(file[key]) for key in file.files if key != "weights"}
        shapes = read_shapes(file["weights"])
    return {key: torch.from_numpy(weight(key, shape)) for key, shape in shapes.items()}, expected


def double_sines(monkeypatch, dtype):
    """In float64, make the time embedding's sines in it too, by the formula that the golden files were made with."""
    if dtype == torch.float64:
        monkeypatch.setattr(
            "undye.networks.unet.sinusoidal",
            lambda t, dim, order, denominator: torch.from_numpy(features(t.numpy(), dim, denominator)),
        )


def spec_of(name):
    """As their arguments say it, not as it is read off the weights."""
    a = MODELS[name][1]
    resolutions = [a["resolution"] >> level for level in range(len(a["ch_mult"]))]
    return UNetSpec(
        config=UNetConfig(
            base_channels=a["ch"],
            channel_mult=a["ch_mult"],
            num_res_blocks=a["num_res_blocks"],
            attention_levels=tuple(level for level, r in enumerate(resolutions) if r in a["attn_resolutions"]),
            resample="conv" if a.get("resamp_with_conv", True) else "pool",
        ),
        channels=a["in_channels"],
        out_channels=a["out_ch"],
    )


def run(network, size, channels, dtype, times):
    """Our output and its gradient by the image, for the cotangent of the rule."""
    x = torch.from_numpy(images(size, channels)).to(dtype).requires_grad_()
    out = network.to(dtype).eval()(x, torch.tensor(times, dtype=torch.float32))
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return {"output": part(out.detach()), "gradient": part(x.grad)}


def close(ours, expected, tolerance):
    """Whether no number is further off than that, relative to the largest."""
    return (ours - expected).abs().max() < tolerance * expected.abs().max()


@every_model
@both_dtypes
def test_same_outputs_and_gradients(name, dtype, tolerance, monkeypatch):
    double_sines(monkeypatch, dtype)
    weights, expected = theirs(name)
    spec, size = spec_of(name), MODELS[name][1]["resolution"]
    network = spec.build().to(dtype)
    network.load_state_dict(from_original_weights(weights, spec))
    found = run(network, (size, size), spec.channels, dtype, TIMES)
    assert close(found["gradient"], expected["gradient"], tolerance)
    assert close(found["output"], expected["output"], tolerance)
    if dtype == torch.float32:
        assert close(found["output"], expected["single"], tolerance)


@every_model
def test_the_network_is_read_off_the_weights(name):
    assert read_spec(theirs(name)[0], Path("m.ckpt")) == spec_of(name)


def first_steps(denoiser, size, dtype):
    """The mean of a sampling step from each of STEPS."""
    x, means = torch.from_numpy(images(size)).to(dtype), []
    for t in STEPS:
        grid = torch.tensor([t + 1, t, 0] if t else [1, 0])  # undye's times are one more than theirs
        with torch.no_grad():
            means.append(part(next(Ancestral().steps(denoiser, x, grid, torch.zeros_like)).x))
    return torch.stack(means)


@both_dtypes
def test_a_sampling_step_has_the_same_mean(dtype, tolerance, monkeypatch):
    double_sines(monkeypatch, dtype)
    weights, expected = theirs("cifar10")
    denoiser = Denoiser.from_config(ModelConfig(network=spec_of("cifar10").config)).to(dtype).eval()
    denoiser.network.load_state_dict(from_original_weights(weights, spec_of("cifar10")))
    found = first_steps(denoiser, (32, 32), dtype)
    assert close(found, expected["mean"], tolerance)
    if dtype == torch.float32:
        assert close(found, expected["mean_single"], tolerance)


@pytest.mark.parametrize(
    ("name", "preset", "count"), [("cifar10", "ddpm-cifar10", 35_746_307), ("lsun", "ddpm-256", 113_673_219)]
)
def test_names_and_shapes_of_the_published_models(name, preset, count):
    """All of them, as their code makes them, and so their number of parameters."""
    assert PUBLISHED[name]["ch_mult"] == model_preset(preset).network.channel_mult
    with np.load(GOLDEN / "original_published.npz") as file:
        expected = read_shapes(file[name])
    config = model_preset(preset).network
    assert {original_name(k, config): shape for k, shape in UNetSpec(config=config).shapes().items()} == expected
    assert sum(int(np.prod(shape)) for shape in expected.values()) == count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("mid.attn_1.k.weight"), "weight 'mid.attn_1.k.weight' is missing"),
        (lambda w: w.update(logvar=torch.ones(9)), r"weight 'logvar' belongs to no part of the model \(1 in all\)"),
        (lambda w: w.update({"conv_out.bias": torch.ones(2)}), r"'conv_out.bias' has shape \(2,\), the model needs"),
        (lambda w: w.update({"down.1.block.0.conv_shortcut.weight": torch.ones(1)}), "1x1 shortcuts only"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    weights = dict(theirs("cifar10")[0])
    change(weights)
    with pytest.raises(UserError, match=message):
        from_original_weights(weights, spec_of("cifar10"))


@pytest.mark.parametrize(
    ("ours", "theirs_"),
    [
        ("time_mlp.2.bias", "temb.dense.1.bias"),
        ("conv_in.weight", "conv_in.weight"),
        ("down.0.blocks.1.emb_proj.weight", "down.0.block.1.temb_proj.weight"),
        ("down.0.resample.conv.bias", "down.0.downsample.conv.bias"),
        ("down.1.attentions.0.proj_out.weight", "down.1.attn.0.proj_out.weight"),
        ("down.1.blocks.0.shortcut.weight", "down.1.block.0.nin_shortcut.weight"),
        ("middle1.norm2.bias", "mid.block_1.norm2.bias"),
        ("middle_attention.q.bias", "mid.attn_1.q.bias"),
        ("up.0.resample.conv.bias", "up.3.upsample.conv.bias"),
        ("up.2.attentions.2.norm.weight", "up.1.attn.2.norm.weight"),
        ("up.3.blocks.2.conv2.bias", "up.0.block.2.conv2.bias"),
        ("norm_out.weight", "norm_out.weight"),
    ],
)
def test_names(ours, theirs_):
    assert original_name(ours, UNetConfig()) == theirs_
