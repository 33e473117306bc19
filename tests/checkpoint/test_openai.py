""".pt files of OpenAI's projects: what their weights show is read off them, the rest is asked for or noted."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import undye
from tests.differential.test_openai_unet import theirs
from tests.golden.openai_models import LABELS, MODELS, NUM_CLASSES, TIMES, images, part
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import read_foreign
from undye.networks.names_openai import from_openai_flags, openai_name
from undye.networks.spec import UNetSpec

WITH_WEIGHTS_BETWEEN_LEVELS = [name for name in MODELS if "pool" not in name]


def write(path: Path, name: str) -> Path:
    torch.save({k: v.float() for k, v in theirs(name)[0].items()}, path)
    return path


def said(name: str) -> dict[str, str]:
    """What a user has to say of it: the flags that no weight shows."""
    flags = {"image_size": 64, "num_heads": 4, "num_head_channels": -1, "use_new_attention_order": False}
    flags |= {k: v for k, v in MODELS[name][1].items() if k in flags}
    return {k: str(v).lower() for k, v in flags.items()}


@pytest.mark.parametrize("name", WITH_WEIGHTS_BETWEEN_LEVELS)
def test_a_file_becomes_the_model_that_openais_code_computes(name, tmp_path):
    denoiser = undye.load(write(tmp_path / "m.pt", name), settings=said(name))
    _, flags, _, size = MODELS[name]
    config = denoiser.config
    expected = from_openai_flags(flags, NUM_CLASSES)
    for key in ("channel_mult", "num_res_blocks", "attention_levels", "scale_shift_norm", "resample", "num_heads"):
        assert getattr(config.network, key) == getattr(expected.config, key), key
    assert config.variance == ("learned_range" if flags.get("learn_sigma") else "fixed_large")
    assert (config.num_classes, config.null_label) == (expected.num_classes, expected.null_label)
    assert config.time_input == "zero_based_per_mille"
    x = torch.from_numpy(images(size)).float()
    label = None if config.num_classes is None else torch.tensor(LABELS)
    # t is one more than their 0-based time; and the denoiser tells the network just that
    value, learned = denoiser.predict(x, torch.tensor(TIMES) + 1, label)
    out = value if learned is None else torch.cat([value, 2 * learned - 1], dim=1)
    golden = theirs(name)[1]["output"]
    assert (part(out.detach()) - golden).abs().max() < 1e-4 * golden.abs().max()


def test_what_is_not_said_is_noted_with_its_default(tmp_path):
    path = write(tmp_path / "m.pt", "improved_cifar10")
    found = read_foreign(path, Settings.parse(["image_size=32", "noise_schedule=cosine", "diffusion_steps=4000"]))
    assert found.kind == "openai"
    text = "\n".join(found.notes)
    assert "num_heads: the file does not say, 4 is OpenAI's default (--set num_heads=...)" in text
    assert "image_size" not in text
    schedule = found.denoiser.config.schedule
    assert (schedule.name, schedule.num_steps, schedule.rescale_betas) == ("cosine", 4000, False)
    linear = read_foreign(path, Settings.parse(["image_size=32", "diffusion_steps=4000"])).denoiser.schedule
    assert linear.beta[-1].item() == pytest.approx(0.02 / 4)


def test_half_widths_are_read(tmp_path):
    """As those of guided-diffusion's 512x512 model: the first level half as wide as the time embedding."""
    flags = {"num_channels": 64, "channel_mult": "0.5,1.5", "num_res_blocks": 1, "resblock_updown": True}
    spec = from_openai_flags({**flags, "attention_resolutions": "1"})
    weights = {}
    for name, shape in spec.shapes().items():
        if name.split(".")[-2] in ("q", "k", "v"):
            shape = (3 * shape[0], *shape[1:3])
        weights[openai_name(name, spec.config)] = torch.randn(shape)
    torch.save(weights, tmp_path / "m.pt")
    config = undye.load(tmp_path / "m.pt", settings={"image_size": 16}).config.network
    assert (config.channel_mult, config.stem_width, config.widths) == ((0.5, 1.5), 32, (32, 96))


def test_classes_ask_for_a_label(tmp_path):
    denoiser = undye.load(write(tmp_path / "m.pt", "improved_classes"), settings=said("improved_classes"))
    with pytest.raises(undye.UserError, match="class"):
        undye.sample(denoiser, 1, steps=1)
    with pytest.raises(undye.UserError, match="null label"):
        undye.sample(denoiser, 1, steps=1, label=3, guidance=1.5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"num_channels": 32, "channel_mult": "1", "num_res_blocks": 1, "attention_resolutions": "1", "num_heads": 1}
    spec, weights = from_openai_flags(flags), {}
    for name, shape in spec.shapes().items():
        theirs_name = openai_name(name, spec.config)
        if name.split(".")[-2] in ("q", "k", "v"):  # one layer of theirs holds all three
            shape = (3 * shape[0], *shape[1:3])
        weights[theirs_name] = torch.randn(shape)
    path = tmp_path_factory.mktemp("tiny") / "m.pt"
    torch.save(weights, path)
    undye.load(path, settings={"num_heads": "1"})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("out.2.weight"), "'out.2.weight' is missing"),
        (lambda w: w.pop("middle_block.1.qkv.weight"), "'middle_block.1.qkv.weight' is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda w: w.update({"time_embed.2.bias": torch.zeros(3)}), "'time_embed.2.bias' has shape"),
        (lambda w: w.update({"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}), "shape|channels"),
        (lambda w: w.clear(), "not a model that undye knows .it holds no named tensors."),
        (lambda w: w.update(state={"step": 3}), "no state dict.*'state' is of type dict"),
    ],
)
def test_wrong_keys_and_shapes_are_named(tiny, tmp_path, change, says):
    weights = torch.load(tiny, weights_only=True)
    change(weights)
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "m.pt", settings={"num_heads": "1"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_heads": "5"}, "heads"),
        ({"image_size": "64x32"}, "square"),
        ({"noise_schedule": "cubic"}, "cubic"),
        ({"diffusion_steps": "0"}, "at least 1 step"),
        ({"colour": "red"}, "no such setting"),
        ({"variance": "learned_range"}, "variance=learned_range: the network has 1 numbers"),
        ({"dropout": "1"}, "dropout must lie"),
        ({"schedule.num_steps": "0"}, "at least 1 step"),
        ({"schedule.beta_end": "2"}, "beta"),
    ],
)
def test_settings_that_make_no_sense(tiny, settings, says):
    with pytest.raises(undye.UserError, match=says):
        undye.load(tiny, settings={"num_heads": "1", **settings})


def test_the_fields_of_the_model_can_be_said_too(tiny):
    settings = {"num_heads": 1, "prediction": "v", "variance": "fixed_small", "clip_x_0": False, "dropout": 0.3}
    schedule = {"schedule.name": "scaled_linear", "schedule.num_steps": 50, "schedule.beta_end": 0.1}
    config = undye.load(tiny, settings=settings | schedule).config
    assert (config.prediction, config.variance, config.clip_x_0) == ("v", "fixed_small", False)
    assert config.network.dropout == 0.3
    assert (config.schedule.name, config.schedule.num_steps, config.schedule.beta_end) == ("scaled_linear", 50, 0.1)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"input_blocks.0.0.weight": Bomb()}, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match="more than tensors"):
        undye.load(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04.", bytes(1000)])
def test_files_of_another_kind(content, tmp_path):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(undye.UserError):
        undye.load(tmp_path / "m.pt")


def test_damaged_files(tiny, tmp_path, monkeypatch, ways):
    """Bytes changed, cut off, doubled, put in: a clear error or a model, never another exception."""
    monkeypatch.setattr(UNetSpec, "shapes", cache(UNetSpec.shapes))  # the same few networks again and again
    whole, rng, messages = tiny.read_bytes(), np.random.default_rng(8), []
    # half of the damage where the archive says what it holds: at its start and its end
    edges = np.r_[0:4000, len(whole) - 4000 : len(whole)]
    for k in range(ways):
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
        (tmp_path / "m.pt").write_bytes(bytes(data))
        try:
            undye.load(tmp_path / "m.pt", settings={"num_heads": "1"})
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) > ways / 4
    assert not any("\n" in message for message in messages)
