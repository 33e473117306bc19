"""Our U-Net against what w86763777's code computed (tests/golden/w86763777_*.npz)."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.differential.test_original_unet import both_dtypes, close, double_sines, first_steps, run
from tests.golden.openai_models import weight
from tests.golden.original_models import read_shapes
from tests.golden.w86763777_models import MODELS, PUBLISHED, STEPS, TIMES
from undye.checkpoint.w86763777 import read_spec
from undye.config import ModelConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.diffusion.variance import log_var
from undye.errors import UserError
from undye.networks.names_w86763777 import TABLE, check_table, from_w86763777_weights, w86763777_name
from undye.networks.spec import UNetSpec

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("name", MODELS)


def table_of(rows, dim, dtype=torch.float64):
    """Their table of times: the sine and cosine of each frequency in turn."""
    angle = torch.arange(rows, dtype=dtype)[:, None] * 1e4 ** -(torch.arange(0, dim, 2, dtype=dtype) / dim)
    table = torch.empty(rows, dim, dtype=dtype)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


@cache
def theirs(name):
    """Their state dict in float64, and what came out, by name."""
    with np.load(GOLDEN / f"w86763777_{name}.npz") as file:
        expected = {key: torch.from_numpy(file[key]) for key in file.files if key != "weights"}
        shapes = read_shapes(file["weights"])
    weights = {k: table_of(*s) if k == TABLE else torch.from_numpy(weight(k, s)) for k, s in shapes.items()}
    return weights, expected


def config_of(arguments):
    """As their arguments say it, not as it is read off the weights."""
    return UNetConfig(
        base_channels=arguments["ch"],
        channel_mult=tuple(arguments["ch_mult"]),
        num_res_blocks=arguments["num_res_blocks"],
        attention_levels=tuple(arguments["attn"]),
        downsample_padding="symmetric",
        time_denominator="half",
        norm_eps=1e-5,
    )


def spec_of(name):
    return UNetSpec(config=config_of(MODELS[name][0]))


@every_model
@both_dtypes
def test_same_outputs_and_gradients(name, dtype, tolerance, monkeypatch):
    double_sines(monkeypatch, dtype)
    weights, expected = theirs(name)
    network = spec_of(name).build().to(dtype)
    network.load_state_dict(from_w86763777_weights(weights, spec_of(name)))
    found = run(network, MODELS[name][1], 3, dtype, TIMES)
    assert close(found["gradient"], expected["gradient"], tolerance)
    assert close(found["output"], expected["output"], tolerance)
    if dtype == torch.float32:
        assert close(found["output"], expected["single"], tolerance)


@every_model
def test_the_network_is_read_off_the_weights(name):
    assert read_spec(theirs(name)[0], Path("ckpt.pt")) == (spec_of(name), MODELS[name][0]["T"])


@both_dtypes
def test_a_sampling_step_has_the_same_mean_and_variance(dtype, tolerance, monkeypatch):
    double_sines(monkeypatch, dtype)
    weights, expected = theirs("cifar10")
    config = ModelConfig(network=spec_of("cifar10").config, clip_x_0=False)
    denoiser = Denoiser.from_config(config).to(dtype).eval()
    denoiser.network.load_state_dict(from_w86763777_weights(weights, spec_of("cifar10")))
    found = first_steps(denoiser, (32, 32), dtype)
    # unclipped, a step from 999 is a hundred times as large as one from 0
    assert all(close(f, e, tolerance) for f, e in zip(found, expected["mean"], strict=True))
    if dtype == torch.float32:
        assert all(close(f, e, tolerance) for f, e in zip(found, expected["mean_single"], strict=True))
    t = torch.tensor(STEPS) + 1
    assert close(log_var("fixed_large", denoiser.schedule, t, t - 1), expected["log_var"], 1e-9)


def test_names_and_shapes_of_the_published_model():
    """All of them, as their code makes them; its count includes the table."""
    config = config_of(PUBLISHED)
    with np.load(GOLDEN / "w86763777_published.npz") as file:
        expected = read_shapes(file["weights"])
    names = {w86763777_name(k, config): shape for k, shape in UNetSpec(config=config).shapes().items()}
    assert names | {TABLE: (1000, 128)} == expected
    assert sum(int(np.prod(shape)) for shape in names.values()) == 35_746_307


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_tables_as_they_make_them(dtype):
    check_table(table_of(1000, 128, torch.float32).to(dtype))
    check_table(table_of(1, 128).to(dtype))


def test_an_averaged_table():
    """Their EMA includes the table, and float32 does not keep a constant that is averaged with itself."""
    table = table_of(1000, 128, torch.float32)
    average = table.clone()
    for _ in range(300):
        average = average * 0.9999 + table * (1 - 0.9999)
    assert 1e-6 < (average - table).abs().max() < 1e-3
    check_table(average)


def other_frequencies(rows, dim):
    angle = torch.arange(rows)[:, None] * 1e4 ** -(torch.arange(dim // 2) / (dim // 2 - 1))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


@pytest.mark.parametrize(
    "table",
    [
        table_of(1000, 32)[1:],
        -table_of(1000, 32),
        table_of(1000, 32) * 0.98,
        other_frequencies(1000, 32),
        torch.cat([table_of(1000, 32)[:, 0::2], table_of(1000, 32)[:, 1::2]], dim=1),
        torch.zeros(1000, 32),
        torch.full((1000, 32), torch.nan),
        torch.full((1000, 32), torch.inf),
        table_of(1000, 32).int(),
        table_of(1000, 32).bool(),
        table_of(1000, 32)[:, :31],
        table_of(1000, 32)[0],
        torch.zeros(0, 32),
    ],
    ids=lambda t: str(t.dtype) + str(tuple(t.shape)),
)
def test_other_tables(table):
    with pytest.raises(UserError, match=r"sines and cosines|no table of times"):
        check_table(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("middleblocks.0.attn.proj_k.weight"), "'middleblocks.0.attn.proj_k.weight' is missing"),
        (lambda w: w.update(ema=torch.ones(1)), r"weight 'ema' belongs to no part of the model \(1 in all\)"),
        (lambda w: w.update({"tail.2.bias": torch.ones(2)}), r"'tail.2.bias' has shape \(2,\), the model needs \(3,\)"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    weights = dict(theirs("cifar10")[0])
    change(weights)
    with pytest.raises(UserError, match=message):
        from_w86763777_weights(weights, spec_of("cifar10"))


@pytest.mark.parametrize(
    ("ours", "theirs_"),
    [
        ("time_mlp.2.bias", "time_embedding.timembedding.3.bias"),
        ("conv_in.weight", "head.weight"),
        ("down.0.blocks.1.emb_proj.weight", "downblocks.1.temb_proj.1.weight"),
        ("down.0.resample.conv.bias", "downblocks.2.main.bias"),
        ("down.1.attentions.0.k.weight", "downblocks.3.attn.proj_k.weight"),
        ("down.1.blocks.0.shortcut.weight", "downblocks.3.shortcut.weight"),
        ("middle1.norm2.bias", "middleblocks.0.block2.0.bias"),
        ("middle_attention.norm.bias", "middleblocks.0.attn.group_norm.bias"),
        ("middle2.conv2.weight", "middleblocks.1.block2.3.weight"),
        ("up.0.resample.conv.bias", "upblocks.3.main.bias"),
        ("up.2.attentions.2.proj_out.weight", "upblocks.10.attn.proj.weight"),
        ("up.3.blocks.2.norm1.bias", "upblocks.14.block1.0.bias"),
        ("norm_out.weight", "tail.0.weight"),
        ("conv_out.bias", "tail.2.bias"),
    ],
)
def test_names(ours, theirs_):
    assert w86763777_name(ours, UNetConfig()) == theirs_
