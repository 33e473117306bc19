"""ckpt.pt of w86763777/pytorch-ddpm: what the file shows is read off it, the rest is asked for or noted."""

from functools import cache

import pytest
import torch

import undye
from tests.checkpoint.test_original import hostile, spoilt_bytes, spoilt_contents
from tests.differential.test_original_unet import close
from tests.differential.test_w86763777_unet import table_of, theirs
from tests.golden.openai_models import images, part
from tests.golden.w86763777_models import MODELS, TIMES
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import read_foreign
from undye.checkpoint.w86763777 import knows, read
from undye.config import UNetConfig
from undye.networks.names_w86763777 import TABLE, w86763777_name
from undye.networks.spec import UNetSpec


def single(name):
    return {k: v.float() for k, v in theirs(name)[0].items()}


def ckpt(weights, size=(32, 32)):
    """What their training saves; the weights are its EMA, the others zeros but for the table."""
    return {
        "net_model": {k: v if k == TABLE else torch.zeros_like(v) for k, v in weights.items()},
        "ema_model": weights,
        "sched": {"base_lrs": [2e-4], "last_epoch": 5001, "lr_lambdas": [None]},
        "optim": {"state": {0: {"step": 7.0, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4}]},
        "step": 5000,
        "x_T": torch.zeros(64, 3, *size),
    }


def output(denoiser, size):
    value, _ = denoiser.predict(torch.from_numpy(images(size)).float(), torch.tensor(TIMES) + 1)
    return part(value.detach())


@pytest.mark.parametrize("name", MODELS)
def test_a_file_becomes_the_model_that_their_code_computes(name, tmp_path):
    arguments, size = MODELS[name]
    torch.save(ckpt(single(name), size), tmp_path / "ckpt.pt")
    denoiser = undye.load(tmp_path / "ckpt.pt")
    config = denoiser.config
    assert (config.image_size, config.schedule.num_steps) == (size, arguments["T"])
    assert (config.variance, config.prediction, config.clip_x_0) == ("fixed_large", "eps", False)
    assert config.time_input == "zero_based"
    assert close(output(denoiser, size), theirs(name)[1]["single"], 1e-5)


def test_what_is_not_said_is_noted(tmp_path):
    torch.save(ckpt(single("cifar10")), tmp_path / "ckpt.pt")
    found = read_foreign(tmp_path / "ckpt.pt", Settings())
    text = "\n".join(found.notes)
    assert found.kind == "w86763777"
    assert "variance: the file does not say, fixed_large is w86763777's default (--set variance=...)" in text
    for key in ("prediction", "dropout", "clip_x_0", "schedule.name", "schedule.beta_start", "schedule.beta_end"):
        assert f"--set {key}=" in text, key
    assert "image_size" not in text
    assert "num_steps" not in text
    said = ["variance=fixed_small", "prediction=x_0", "dropout=0", "clip_x_0=true", "schedule.beta_end=0.01"]
    found = read_foreign(
        tmp_path / "ckpt.pt",
        Settings.parse([*said, "schedule.name=linear", "schedule.beta_start=2e-4", "image_size=48x64"]),
    )
    config = found.denoiser.config
    assert found.notes == []
    assert (config.variance, config.prediction, config.clip_x_0) == ("fixed_small", "x_0", True)
    assert (config.network.dropout, config.image_size) == (0.0, (48, 64))
    assert found.denoiser.schedule.beta[[1, -1]].tolist() == pytest.approx([2e-4, 0.01])


def test_ema_or_model(tmp_path):
    content = ckpt(single("cifar10"))
    torch.save(content, tmp_path / "ckpt.pt")
    assert output(undye.load(tmp_path / "ckpt.pt", settings={"weights": "ema"}), (32, 32)).abs().max() > 0
    assert output(undye.load(tmp_path / "ckpt.pt", settings={"weights": "model"}), (32, 32)).abs().max() == 0
    with pytest.raises(undye.UserError, match="ema or model, not 'last'"):
        undye.load(tmp_path / "ckpt.pt", settings={"weights": "last"})
    del content["ema_model"]
    torch.save(content, tmp_path / "ckpt.pt")
    found = read_foreign(tmp_path / "ckpt.pt", Settings())
    assert any("the file holds no EMA" in note for note in found.notes)
    assert output(found.denoiser, (32, 32)).abs().max() == 0


@pytest.mark.parametrize(
    "x_T",
    ["none", None, 3, *map(torch.zeros, [3, (4, 1, 16, 16), (4, 3, 0, 16)]), torch.zeros(2).to_sparse()],
    ids=str,
)
def test_without_an_image_size(x_T, tmp_path):
    content = ckpt(single("cifar10")) | {"x_T": x_T}
    if x_T == "none":
        del content["x_T"]
    torch.save(content, tmp_path / "ckpt.pt")
    found = read_foreign(tmp_path / "ckpt.pt", Settings())
    assert found.denoiser.config.image_size == (32, 32)
    assert "image_size: the file does not say, 32 is w86763777's default (--set image_size=...)" in found.notes


def test_a_state_dict_alone(tmp_path):
    torch.save(single("short"), tmp_path / "m.pt")
    denoiser = undye.load(tmp_path / "m.pt", settings={"image_size": (32, 16)})
    assert close(output(denoiser, (32, 16)), theirs("short")[1]["single"], 1e-5)


def tiny_weights():
    """One level, one block."""
    config = UNetConfig(base_channels=32, channel_mult=(1,), num_res_blocks=1, attention_levels=())
    weights = {w86763777_name(k, config): torch.randn(shape) for k, shape in UNetSpec(config=config).shapes().items()}
    return weights | {TABLE: table_of(1000, 32, torch.float32)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "ckpt.pt"
    torch.save(ckpt(tiny_weights()), path)
    undye.load(path)
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("tail.2.weight"), "'tail.2.weight' is missing"),
        (lambda w: w.pop("head.weight"), "'head.weight' is missing"),
        (lambda w: w.pop("downblocks.0.block1.2.weight"), "do not form levels"),
        (lambda w: w.pop("middleblocks.0.attn.proj.bias"), "'middleblocks.0.attn.proj.bias' is missing"),
        (lambda w: w.pop(TABLE), f"'{TABLE}' is missing or has not 32 columns"),
        (lambda w: w.update({TABLE: torch.zeros(1000, 32)}), r"sines and cosines of times 0\.\.999"),
        (lambda w: w.update({TABLE: torch.zeros(0, 32)}), "at least 1 step"),
        (lambda w: w.update({TABLE: torch.zeros(10**6 + 1, 32)}), "at most 1,000,000 steps"),
        (lambda w: w.update({TABLE: hostile((10**9, 32))}), "no plain array"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda w: w.update(extra={"step": 3}), "state dict"),
        (lambda w: w.update({"head.weight": torch.zeros(32, 4, 3, 3)}), "images of 4 channels"),
        (lambda w: w.update({"tail.2.weight": torch.zeros(6, 32, 3, 3)}), "6 outputs for images of 3 channels"),
        (lambda w: w.update({"head.weight": torch.zeros(32, 3, 3)}), r"has shape \(32, 3, 3\)"),
        (lambda w: w.update({"downblocks.1.main.weight": torch.zeros(1)}), "do not form|missing"),
        (
            lambda w: w.update({f"downblocks.{i}.main.weight": torch.zeros(1) for i in range(1, 9999, 2)}),
            "do not form levels",
        ),
    ],
)
def test_wrong_keys_and_shapes_are_named(tiny, tmp_path, change, says):
    content = torch.load(tiny, weights_only=True)
    change(content["ema_model"])
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "ckpt.pt")
    assert undye.load(tmp_path / "ckpt.pt", settings={"weights": "model"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"variance": "learned_range"}, "no outputs for a variance"),
        ({"prediction": "xstart"}, "'xstart' is not one of"),
        ({"dropout": "-1"}, "dropout must lie"),
        ({"schedule.num_steps": "500"}, "the file says 1000, leave it out"),
        ({"schedule.beta_end": "2"}, "beta"),
        ({"schedule.beta_end": "nan"}, "beta"),
        ({"image_size": "0"}, "image size is written"),
        ({"beta_T": "0.02"}, "no such setting"),
    ],
)
def test_settings_that_make_no_sense(tiny, settings, says):
    with pytest.raises(undye.UserError, match=says):
        undye.load(tiny, settings=settings)


@pytest.mark.parametrize("content", [{}, {"ema_model": 3}, {"net_model": {}}, [], {"head.weight": torch.zeros(1)}])
def test_what_is_not_theirs(content, tmp_path):
    assert not knows(content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match="not a model that undye knows"):
        undye.load(tmp_path / "m.pt")


def test_damaged_files(tiny, tmp_path, monkeypatch, ways):
    """A clear error or a model, never another exception."""
    monkeypatch.setattr(UNetSpec, "shapes", cache(UNetSpec.shapes))  # the same few networks again and again

    def wrap(rng, weights):
        odd = [None, 3, "x", [], {}, hostile((10**9, 3, 10**4, 10**4)), torch.zeros(1, 3, 9, 10**6, device="meta")]
        odd = {("x_T", "net_model", "ema_model", "more")[rng.integers(4)]: odd[rng.integers(len(odd))]}
        contents = [weights, {"net_model": weights}, {"ema_model": weights}, {"ema_model": weights} | odd]
        return contents[rng.integers(len(contents))]

    weights = torch.load(tiny, weights_only=True)["ema_model"]
    assert len(spoilt_contents(weights, wrap, read, 9 * ways // 10, {})) > ways / 2
    assert len(spoilt_bytes(tiny.read_bytes(), tmp_path / "ckpt.pt", ways // 10, {})) > ways / 40


def test_a_known_file_is_known_by_its_keys():
    assert knows({"ema_model": {TABLE: torch.zeros(1)}})
    assert knows({TABLE: torch.zeros(1)})
