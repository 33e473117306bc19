"""Files of the conversions of Ho et al.'s models, and of ddim: what the weights show is read, the rest is noted."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import undye
from tests.differential.test_original_unet import close, theirs
from tests.golden.openai_models import images, part
from tests.golden.original_models import MODELS, TIMES
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import read_foreign
from undye.checkpoint.original import knows, read
from undye.config import UNetConfig
from undye.networks.names_original import original_name
from undye.networks.spec import UNetSpec


def single(name):
    return {k: v.float() for k, v in theirs(name)[0].items()}


def ddim(name, ema=True):
    """What ddim's training saves: its model is wrapped in DataParallel, the EMA is not."""
    last = {f"module.{k}": torch.zeros_like(v) for k, v in single(name).items()}
    optimizer = {
        "state": {0: {"step": 7, "exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}],
    }
    return [last, optimizer, 2, 7000, *([single(name)] if ema else [])]


def output(denoiser, size):
    value, _ = denoiser.predict(
        torch.from_numpy(images(size, denoiser.config.channels)).float(), torch.tensor(TIMES) + 1
    )
    return part(value.detach())


@pytest.mark.parametrize("name", MODELS)
def test_a_file_becomes_the_model_that_their_code_computes(name, tmp_path):
    torch.save(single(name), tmp_path / "m.ckpt")
    size = MODELS[name][1]["resolution"]
    denoiser = undye.load(tmp_path / "m.ckpt", settings={"image_size": size})
    assert denoiser.config.image_size == (size, size)
    assert denoiser.config.time_input == "zero_based"
    # the numbers of the denoiser itself, in float32: t is one more than their 0-based time
    assert close(output(denoiser, (size, size)), theirs(name)[1]["single"], 1e-5)


@pytest.mark.parametrize(
    ("name", "variance", "dropout"), [("cifar10", "fixed_large", 0.1), ("lsun", "fixed_small", 0.0)]
)
def test_the_rest_is_that_of_the_published_model_of_its_shape(name, variance, dropout, tmp_path):
    torch.save(single(name), tmp_path / "m.ckpt")
    found = read_foreign(tmp_path / "m.ckpt", Settings())
    config, size = found.denoiser.config, {"cifar10": 32, "lsun": 256}[name]
    assert (found.kind, config.variance, config.network.dropout) == ("original", variance, dropout)
    assert (config.image_size, config.clip_x_0, config.prediction) == ((size, size), True, "eps")
    assert config.schedule == undye.Denoiser.from_preset("ddpm-cifar10").config.schedule
    text = "\n".join(found.notes)
    assert f"variance: the file does not say, {variance} is Ho et al.'s default (--set variance=...)" in text
    for key in ("dropout", "image_size", "clip_x_0", "schedule.name", "schedule.num_steps", "schedule.beta_end"):
        assert f"--set {key}=" in text, key
    assert not any("\n" in note for note in found.notes)


def test_all_of_it_can_be_said(tmp_path):
    torch.save(single("cifar10"), tmp_path / "m.ckpt")
    said = ["image_size=48", "variance=fixed_small", "dropout=0.3", "clip_x_0=false", "schedule.name=cosine"]
    found = read_foreign(tmp_path / "m.ckpt", Settings.parse([*said, "schedule.num_steps=4000"]))
    config = found.denoiser.config
    assert found.notes == []
    assert (config.image_size, config.variance, config.clip_x_0) == ((48, 48), "fixed_small", False)
    assert (config.network.dropout, config.schedule.name, config.schedule.num_steps) == (0.3, "cosine", 4000)


def test_ddims_list_has_its_ema_read(tmp_path):
    torch.save(ddim("cifar10"), tmp_path / "ckpt.pth")
    golden = theirs("cifar10")[1]["single"]
    assert close(output(undye.load(tmp_path / "ckpt.pth"), (32, 32)), golden, 1e-5)
    last = undye.load(tmp_path / "ckpt.pth", settings={"weights": "model"})
    assert output(last, (32, 32)).abs().max() == 0


def test_ddims_list_without_ema(tmp_path):
    torch.save(ddim("cifar10", ema=False), tmp_path / "ckpt.pth")
    found = read_foreign(tmp_path / "ckpt.pth", Settings())
    assert any("the file holds no EMA" in note for note in found.notes)
    assert output(found.denoiser, (32, 32)).abs().max() == 0
    with pytest.raises(undye.UserError, match="holds no EMA weights"):
        undye.load(tmp_path / "ckpt.pth", settings={"weights": "ema"})


def tiny_weights():
    """One level, one block."""
    config = UNetConfig(base_channels=32, channel_mult=(1,), num_res_blocks=1, attention_levels=())
    return {original_name(k, config): torch.randn(shape) for k, shape in UNetSpec(config=config).shapes().items()}


SIZE = {"image_size": "16"}
"""What the weights of the tiny network do not show: it attends at no level."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "m.ckpt"
    torch.save(tiny_weights(), path)
    undye.load(path, settings=SIZE)
    return path


def hostile(shape):
    """A tensor that claims a shape, of one number."""
    return torch.zeros(1).expand(shape)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("conv_out.weight"), "'conv_out.weight' is missing"),
        (lambda w: w.pop("mid.attn_1.q.weight"), "'mid.attn_1.q.weight' is missing"),
        (lambda w: w.pop("down.0.block.0.conv1.weight"), "'down.0.block.0.conv1.weight' is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda w: w.update(extra={"step": 3}), "state dict"),
        (lambda w: w.update({"conv_in.weight": torch.zeros(32, 4, 3, 3)}), "images of 4 channels"),
        (lambda w: w.update({"conv_out.weight": torch.zeros(6, 32, 3, 3)}), "6 outputs for images of 3 channels"),
        (lambda w: w.update({"conv_in.weight": torch.zeros(48, 3, 3, 3)}), "norm groups|multiple|shape|channels"),
        (lambda w: w.update({"conv_in.weight": torch.zeros(0, 3, 3, 3)}), r"has shape \(0, 3, 3, 3\)"),
        (lambda w: w.update({"conv_in.weight": hostile((10**9, 3, 3, 3))}), "no plain array"),
        (lambda w: w.update({"conv_in.weight": torch.zeros(99_999, 3, 1, 1)}), "it is no such network"),
        (lambda w: w.update({"conv_in.bias": torch.ones(32, dtype=torch.bool)}), "not real numbers"),
        (lambda w: w.update({"mid.block_1.conv_shortcut.weight": torch.ones(1)}), "1x1 shortcuts only"),
        (
            lambda w: w.update({f"down.{i}.block.0.conv1.weight": torch.zeros(32, 32, 3, 3) for i in range(99)}),
            "'down.12.block.0.conv1.weight' is one too many",
        ),
    ],
)
def test_wrong_keys_and_shapes_are_named(tiny, tmp_path, change, says):
    weights = torch.load(tiny, weights_only=True)
    change(weights)
    torch.save(weights, tmp_path / "m.ckpt")
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "m.ckpt", settings=SIZE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_size": "32x48"}, "square"),
        ({"variance": "learned"}, "no outputs for a variance"),
        ({"variance": "large"}, "'large' is not one of"),
        ({"dropout": "2"}, "dropout must lie"),
        ({"dropout": "nan"}, "dropout must lie"),
        ({"weights": "ema"}, "no such setting"),
        ({"schedule.num_steps": "0"}, "at least 1 step"),
        ({"schedule.beta_end": "nan"}, "beta"),
        ({"schedule.name": "cubic"}, "cubic"),
        ({"schedule.name": "cosine", "schedule.beta_end": "0.01"}, "leave them out"),
    ],
)
def test_settings_that_make_no_sense(tiny, settings, says):
    with pytest.raises(undye.UserError, match=says):
        undye.load(tiny, settings=SIZE | settings)


@pytest.mark.parametrize("content", [[], [1], [{}], [[]], ["temb.dense.0.weight"], {"temb": 1}, None])
def test_what_is_not_theirs(content, tmp_path):
    assert not knows(content)
    torch.save(content, tmp_path / "m.ckpt")
    with pytest.raises(undye.UserError, match="not a model that undye knows"):
        undye.load(tmp_path / "m.ckpt")


def test_weights_is_ema_or_model(tmp_path):
    torch.save([tiny_weights(), {}, 0, 0, tiny_weights()], tmp_path / "m.ckpt")
    with pytest.raises(undye.UserError, match="ema or model, not 'best'"):
        undye.load(tmp_path / "m.ckpt", settings={"weights": "best"})


def test_an_image_size_that_does_not_follow(tmp_path):
    torch.save(single("pool"), tmp_path / "m.ckpt")
    with pytest.raises(
        undye.UserError, match="which attends at 2 levels, does not say the size of its images: give it, --set"
    ):
        undye.load(tmp_path / "m.ckpt")


def spoil(rng, weights):
    """One change to the names, shapes or values of a state dict."""
    names = list(weights)
    name = names[rng.integers(len(names))]
    match rng.integers(7):
        case 0:
            weights.pop(name)
        case 1:
            weights[name.replace("0", str(rng.integers(3)), 1) + "x" * int(rng.integers(2))] = weights.pop(name)
        case 2:
            weights[name] = torch.zeros(tuple(int(n) for n in rng.integers(0, 40, rng.integers(0, 5))))
        case 3:
            odd = [None, 3, "x", [], {}, torch.tensor(torch.nan), torch.zeros(2).to_sparse(), hostile((10**9, 10**9))]
            odd += [torch.zeros((), device="meta"), torch.zeros(0, 10**9), torch.zeros(2, dtype=torch.complex64)]
            weights[name] = odd[rng.integers(len(odd))]
        case 4:
            kinds = [torch.bool, torch.uint8, torch.half, torch.bfloat16, torch.double, torch.cfloat, torch.int64]
            weights[name] = weights[name].to(kinds[rng.integers(len(kinds))])
        case 5:
            weights[name] = torch.full(weights[name].shape, (torch.nan, torch.inf, 1e38)[rng.integers(3)])
        case 6:
            shape = list(weights[name].shape) or [1]
            shape[rng.integers(len(shape))] = int((1, 2, 64, 96)[rng.integers(4)])
            weights[name] = torch.zeros(shape)


def spoilt_contents(weights, wrap, read, count, settings):
    """Messages of the errors from reading `wrap` of a state dict with one to four such changes, many times."""
    messages = []
    for k in range(count):
        rng = np.random.default_rng(k)
        changed = dict(weights)
        for _ in range(rng.integers(1, 5)):
            if all(isinstance(w, torch.Tensor) for w in changed.values()):
                spoil(rng, changed)
        try:
            read(Path("m.pt"), wrap(rng, changed), Settings(dict(settings)))
        except undye.UserError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    return messages


def spoilt_bytes(whole, path, count, settings):
    """The same for files with bytes changed, cut off, doubled, put in."""
    rng, messages = np.random.default_rng(8), []
    # half of the damage where the archive says what it holds: at its start and its end
    edges = np.r_[0:4000, len(whole) - 4000 : len(whole)]
    for k in range(count):
        data = bytearray(whole)
        at = int(rng.choice(edges)) if k % 2 else int(rng.integers(len(whole)))
        match rng.integers(4):
            case 0:
                data = data[:at]
            case 1:
                data[at] = rng.integers(256)
            case 2:
                data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
            case 3:
                del data[at : at + int(rng.integers(1, 100))]
        path.write_bytes(bytes(data))
        try:
            undye.load(path, settings=settings)
        except undye.UserError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    return messages


def test_damaged_files(tiny, tmp_path, monkeypatch, ways):
    """A clear error or a model, never another exception."""
    monkeypatch.setattr(UNetSpec, "shapes", cache(UNetSpec.shapes))  # the same few networks again and again

    def wrap(rng, weights):
        lists = [
            [weights, {}, 0, 0, weights],
            [weights, {}, 0],
            [weights, {}, 0, 0, None],
            [{}, 0, weights, 0, weights],
        ]
        return weights if rng.integers(2) else lists[rng.integers(len(lists))]

    assert len(spoilt_contents(torch.load(tiny, weights_only=True), wrap, read, 9 * ways // 10, SIZE)) > ways / 2
    assert len(spoilt_bytes(tiny.read_bytes(), tmp_path / "m.ckpt", ways // 10, SIZE)) > ways / 40
