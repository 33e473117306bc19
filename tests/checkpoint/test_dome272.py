""".pt files of dome272's Diffusion-Models-pytorch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import undye
from tests.differential.test_dome272 import theirs
from tests.golden.make_dome272 import MODELS, NUM_CLASSES, inputs, part
from undye.checkpoint import dome272
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import FILES, read_foreign
from undye.config import Dome272Config, ScheduleConfig
from undye.networks.names_dome272 import dome272_name, dome272_shapes

pytestmark = pytest.mark.filterwarnings("ignore::undye.checkpoint.imported.ImportNote")


def write(path: Path, name: str) -> Path:
    torch.save({k: v.float() for k, v in theirs(name)[0].items()}, path)
    return path


def shapes(num_classes: int | None = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of theirs, made narrow; with four heads two channels would not do."""
    ours = dome272_shapes(Dome272Config(base_channels=2, emb_channels=4, num_heads=1), 3, 3, num_classes)
    return {dome272_name(name): shape for name, shape in ours.items()}


def random_weights(num_classes: int | None = 3) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in shapes(num_classes).items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "ema_ckpt.pt"
    torch.save(random_weights(), path)
    undye.load(path, settings={"num_heads": 1})
    return path


@pytest.mark.parametrize("name", ["grey", "wide"])
def test_a_file_becomes_the_model_that_their_code_computes(name, tmp_path):
    size, classes = MODELS[name][2], MODELS[name][4]
    denoiser = undye.load(write(tmp_path / "ckpt.pt", name), settings={"image_size": size})
    config = denoiser.config
    assert config.network == Dome272Config(base_channels=16)
    assert (config.image_size, config.channels) == (size, MODELS[name][1])
    assert (config.num_classes, config.null_label) == (classes, True)
    assert (config.prediction, config.variance, config.clip_x_0) == ("eps", "fixed_large", False)
    assert (config.time_input, config.schedule) == ("zero_based", ScheduleConfig())
    x, t, label = inputs(name)
    # their index i is t = i + 1
    value, learned = denoiser.predict(x.float(), t + 1, label)
    golden = theirs(name)[1]["output"]
    assert learned is None
    assert (part(value.detach()) - golden).abs().max() < 1e-5 * golden.abs().max()


def test_what_is_not_said_is_noted_with_its_default(tiny):
    found = read_foreign(tiny, Settings.parse(["num_heads=1", "beta_end=0.01"]))
    assert found.kind == "dome272"
    text = "\n".join(found.notes)
    assert "image_size: the file does not say, 64 is dome272's default (--set image_size=...)" in text
    assert "noise_steps: the file does not say, 1000 is" in text
    assert "beta_start: the file does not say, 0.0001 is" in text
    assert "beta_end" not in text
    assert "has not learned the last step" in text
    assert found.denoiser.schedule.beta[[1, -1]].tolist() == pytest.approx([1e-4, 0.01])


def test_settings_have_the_last_word(tiny):
    said = {"num_heads": 2, "image_size": (32, 48), "noise_steps": 500, "clip_x_0": True, "variance": "fixed_small"}
    config = undye.load(tiny, settings=said | {"schedule.name": "cosine"}).config
    assert config.network == Dome272Config(base_channels=2, emb_channels=4, num_heads=2)
    assert config.image_size == (32, 48)
    assert (config.clip_x_0, config.variance, config.num_classes) == (True, "fixed_small", 3)
    assert config.schedule == ScheduleConfig(name="cosine", num_steps=500)


@pytest.mark.parametrize(("num_classes", "label"), [(None, None), (3, 2), (3, None)])
def test_samples(num_classes, label, tmp_path):
    torch.save(random_weights(num_classes), tmp_path / "ckpt.pt")
    denoiser = undye.load(tmp_path / "ckpt.pt", settings={"num_heads": 1, "image_size": 16})
    images = undye.sample(denoiser, 2, steps=3, label=label, guidance=1 if label is None else 3)
    assert images.shape == (2, 16, 16, 3)


def test_survives_being_saved_as_undyes_own(tiny, tmp_path):
    from undye.checkpoint.native import save

    denoiser = undye.load(tiny, settings={"num_heads": 1})
    save(tmp_path / "own", denoiser)
    again = undye.load(tmp_path / "own")
    assert again.config == denoiser.config
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    assert torch.equal(again(x, t).eps, denoiser(x, t).eps)


def test_other_files_are_not_taken_for_theirs():
    assert dome272.knows(random_weights())
    # the segmentation network that theirs grew out of has these names too
    assert not dome272.knows({"inc.double_conv.0.weight": torch.zeros(1), "outc.conv.weight": torch.zeros(1)})
    assert not dome272.knows({"input_blocks.0.0.weight": torch.zeros(1)})
    assert not dome272.knows([torch.zeros(1)])
    assert [name for name, reader in FILES.items() if reader.knows(random_weights())] == ["dome272"]


WIDEST = "bot2.double_conv.0.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("outc.weight"), "'outc.weight' is missing"),
        (lambda w: w.pop("inc.double_conv.0.weight"), "'inc.double_conv.0.weight' is missing: it is no network"),
        (lambda w: w.pop(WIDEST), f"'{WIDEST}' is missing: it is no network"),
        (lambda w: w.pop("sa6.mha.in_proj_weight"), "'sa6.mha.in_proj_weight' is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda w: w.update({"sa2.ln.bias": torch.zeros(3)}), "'sa2.ln.bias' has shape"),
        (lambda w: w.update({"inc.double_conv.0.weight": torch.zeros(2, 4, 3, 3)}), "images of 4 channels"),
        (lambda w: w.update({"inc.double_conv.0.weight": torch.zeros(0, 3, 3, 3)}), r"shape \(0, 3, 3, 3\)"),
        (lambda w: w.update({WIDEST: torch.zeros(16, 16)}), r"shape \(16, 16\): it is no such network"),
        (lambda w: w.update({WIDEST: torch.zeros(7, 7, 3, 3)}), r"shape \(7, 7, 3, 3\): it is no such network"),
        (lambda w: w.update({WIDEST: torch.zeros(10**6, 1, 1, 1)}), r"shape \(1000000, 1, 1, 1\): it is no such"),
        (lambda w: w.update({WIDEST: torch.zeros(24, 24, 3, 3)}), "has shape"),
        (lambda w: w.update({"down1.emb_layer.1.weight": torch.zeros(4, 3)}), "emb_channels must be even"),
        (lambda w: w.update({"label_emb.weight": torch.zeros(10**6, 1)}), "'label_emb.weight' has shape"),
        (lambda w: w.update({"label_emb.weight": torch.zeros(2**40, 0)}), "'label_emb.weight' has shape"),
        (lambda w: w.update({"outc.bias": torch.ones(3, dtype=torch.bool)}), "torch.bool, not real numbers"),
        (lambda w: w.update({"outc.bias": torch.ones(3, dtype=torch.complex64)}), "complex64, not real numbers"),
        (lambda w: w.update({"outc.bias": torch.ones(3).to(torch.float8_e5m2)}), "is no plain array of numbers"),
        (lambda w: w.update({"outc.bias": torch.tensor([1, torch.nan, 1])}), "'head.bias' .* is not finite"),
        (lambda w: w.update({"outc.bias": torch.tensor([1, 1e300, 1]).double()}), "'head.bias' .* is not finite"),
        (lambda w: w.update({"outc.bias": torch.ones(1).expand(3)}), "no plain array"),
        (lambda w: w.update(step=3), "state dict"),
        (lambda w: w.clear(), "not a model that undye knows"),
    ],
)
def test_wrong_keys_and_shapes_are_named(tiny, tmp_path, change, says):
    weights = torch.load(tiny, weights_only=True)
    change(weights)
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "m.pt", settings={"num_heads": 1})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_heads": 5}, "2 base channels do not divide into 5 heads"),
        ({"num_heads": "four"}, "is not a number"),
        ({"noise_steps": 0}, "at least 1 step"),
        ({"noise_steps": 10**12}, "at most 1,000,000 steps"),
        ({"beta_end": "nan"}, "beta"),
        ({"beta_end": 1.5}, "beta"),
        ({"beta_start": -1}, "beta"),
        ({"schedule.beta_end": 2}, "beta"),
        ({"image_size": "big"}, "image"),
        ({"variance": "learned_range"}, r"'outc.weight' has shape \(3, 2, 1, 1\), the model needs \(6, 2, 1, 1\)"),
        ({"variance": "large"}, "not one of"),
        ({"schedule.zero_terminal_snr": True}, "predict v or x_0"),
        ({"num_classes": 4}, "no such setting"),
    ],
)
def test_settings_that_make_no_sense(tiny, settings, says):
    with pytest.raises(undye.UserError, match=says):
        undye.load(tiny, settings={"num_heads": 1, **settings})


def test_four_heads_are_the_default(tmp_path, tiny):
    with pytest.raises(undye.UserError, match="2 base channels do not divide into 4 heads"):
        undye.load(tiny)
    denoiser = undye.load(write(tmp_path / "ckpt.pt", "grey"))
    assert denoiser.config.network.num_heads == 4
    assert undye.load(write(tmp_path / "ckpt.pt", "labels")).config.num_classes == NUM_CLASSES


def damage_content(weights: dict, rng: np.random.Generator) -> object:
    """Keys, shapes and values changed."""
    names = sorted(weights)
    # half of the damage where the widths are read off
    telling = [dome272.STEM, dome272.WIDEST, dome272.TIME, dome272.CLASSES]
    name, other = str(rng.choice(telling if rng.random() < 0.5 else names)), str(rng.choice(names))
    old, sizes = weights[name], (0, 1, 2, 3, 8, 16, 1000)
    dtypes = (torch.bool, torch.int64, torch.uint8, torch.complex64, torch.float16, torch.bfloat16, torch.float64)
    match rng.integers(12):
        case 0:
            del weights[name]
        case 1:
            weights[f"{name}.more"] = weights.pop(name)
        case 2:
            weights[name] = weights[other]
        case 3:
            weights[name], weights[other] = weights[other], old
        case 4:
            weights[name] = torch.zeros([int(rng.choice(sizes)) for _ in range(rng.integers(4))])
        case 5:
            shape = list(old.shape)
            shape[rng.integers(len(shape))] = int(rng.choice(sizes))
            weights[name] = torch.zeros(shape)
        case 6:
            weights[name] = torch.empty(0).reshape(0, *rng.choice((1, 2**20, 2**31), rng.integers(1, 3)).tolist())
        case 7:
            weights[name] = old.to(dtypes[rng.integers(len(dtypes))])
        case 8:
            old.view(-1)[rng.integers(old.numel())] = float(rng.choice((np.nan, np.inf, -np.inf, 1e38)))
        case 9:
            weights[name] = (old.T if old.ndim == 2 else old.flatten())[..., ::2]
        case 10:
            weights[name] = rng.choice(np.array([None, True, 3, 0.5, "text", [1.0], {}], dtype=object))
        case 11:
            weights[name] = old.expand(int(rng.choice(sizes)), *old.shape) if rng.random() < 0.5 else old.to_sparse()
    return weights


def damage_bytes(whole: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut off, put in."""
    data, at = bytearray(whole), int(rng.integers(len(whole)))
    match rng.integers(3):
        case 0:
            return whole[:at]
        case 1:
            data[at] = rng.integers(256)
        case 2:
            data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
    return bytes(data)


def test_damaged_files(tiny, tmp_path, ways):
    """A clear error or a model, never another exception."""
    whole, rng, path, messages = tiny.read_bytes(), np.random.default_rng(272), tmp_path / "m.pt", []
    weights = torch.load(tiny, weights_only=True)
    for k in range(ways):
        settings = Settings.of({"num_heads": 1})
        damaged = damage_content({name: weight.clone() for name, weight in weights.items()}, rng)
        try:
            # most of them without the detour of writing, which takes ten times as long
            if k % 20 == 0:
                torch.save(damaged, path)
                read_foreign(path, settings)
            elif k % 20 == 1:
                path.write_bytes(damage_bytes(whole, rng))
                read_foreign(path, settings)
            elif dome272.knows(damaged):
                dome272.read(path, damaged, settings)
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) > ways / 2
    assert len({message.replace(str(path), "") for message in messages}) > 0.15 * ways
    assert not any("\n" in message for message in messages)
