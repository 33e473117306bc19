"""Checkpoints: round trip, atomicity, and damage."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import undye
from undye.checkpoint.checksums import checksums_text
from undye.checkpoint.native import TrainState, checkpoints, find_checkpoint, load_train_state, save
from undye.config import CompactConfig, ModelConfig, UNetConfig
from undye.errors import UserError
from undye.files import atomic_path, remove_temporaries


def model(**settings) -> undye.Denoiser:
    network = CompactConfig(channels=(8,), blocks=(1,), head_channels=0)
    return undye.Denoiser.from_config(
        ModelConfig(**{"network": network, "image_size": (6, 4), "channels": 1, **settings})
    ).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 3, "class_names": ("a", "b", "ç")},
        {"network": UNetConfig(base_channels=8, channel_mult=(1, 2), norm_groups=4), "channels": 3},
        {"variance": "learned_range", "prediction": "v"},
    ],
)
def test_round_trip(tmp_path: Path, settings) -> None:
    denoiser = model(**settings)
    save(tmp_path / "model", denoiser, about={"step": 7})
    again = undye.load(tmp_path / "model")
    assert again.config == denoiser.config
    x = torch.randn(2, again.config.channels, 6, 4)
    torch.testing.assert_close(again(x, torch.tensor([1, 900])).eps, denoiser(x, torch.tensor([1, 900])).eps)
    assert not again.training
    assert "| step | 7 |" in (tmp_path / "model" / "README.md").read_text()


def test_the_weights_file_says_what_it_is(tmp_path: Path) -> None:
    save(tmp_path / "model", model())
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        header = json.loads(file.metadata()["undye"])
    assert header == json.loads((tmp_path / "model" / "config.json").read_text())


def test_train_state_round_trip(tmp_path: Path) -> None:
    state = TrainState({"a": torch.arange(3.0), "random.cpu": torch.get_rng_state()}, {"step": 3, "elapsed": 1.5})
    save(tmp_path / "model", model(), state)
    again = load_train_state(tmp_path / "model")
    assert again.values == state.values
    assert torch.equal(again.tensors["a"], state.tensors["a"])
    save(tmp_path / "other", model())
    with pytest.raises(UserError, match="--init"):
        load_train_state(tmp_path / "other")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("undye.checkpoint.native.save_file", full)
    with pytest.raises(UserError, match="No space"):
        save(tmp_path / "model", model())
    assert list(tmp_path.iterdir()) == []


def test_saving_never_overwrites(tmp_path: Path) -> None:
    save(tmp_path / "model", model())
    with pytest.raises(UserError, match="exists"):
        save(tmp_path / "model", model())


def test_the_newest_checkpoint_of_a_run(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save(tmp_path / "checkpoints" / str(step), model())
    (tmp_path / "checkpoints" / ".300.tmp1").mkdir()
    (tmp_path / "checkpoints" / "200").mkdir()
    assert [c.name for c in checkpoints(tmp_path)] == ["9", "20", "100"]
    assert find_checkpoint(tmp_path).name == "100"


def damage(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    data = json.loads(config.read_text())
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    match how:
        case "no config":
            config.unlink()
        case "broken config":
            config.write_text("{")
        case "unknown setting":
            data["model"]["colour"] = 1
            config.write_text(json.dumps(data))
        case "wrong type":
            data["model"]["channels"] = "three"
            config.write_text(json.dumps(data))
        case "newer schema":
            data["schema_version"] = 99
            config.write_text(json.dumps(data))
        case "unknown schedule":
            data["model"]["schedule"]["name"] = "wavy"
            config.write_text(json.dumps(data))
        case "bad schedule":
            data["model"]["schedule"]["beta_end"] = 2.0
            config.write_text(json.dumps(data))
        case "no weights":
            weights.unlink()
        case "truncated weights":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "huge header":
            weights.write_bytes((10**11).to_bytes(8, "little") + b"{}")
        case "missing weight":
            del tensors[name]
            save_file(tensors, weights)
        case "extra weight":
            save_file(tensors | {"zzz": torch.zeros(1)}, weights)
        case "wrong shape":
            save_file(tensors | {name: torch.zeros(1, 2, 3)}, weights)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no config", "holds no model"),
        ("broken config", "damaged"),
        ("unknown setting", "colour"),
        ("wrong type", "channels"),
        ("newer schema", "newer undye"),
        ("unknown schedule", "wavy"),
        ("bad schedule", "beta"),
        ("no weights", "missing"),
        ("truncated weights", "damaged"),
        ("huge header", "damaged"),
        ("missing weight", "is missing"),
        ("extra weight", "zzz"),
        ("wrong shape", "shape"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, how: str, says: str) -> None:
    save(tmp_path / "model", model())
    damage(tmp_path / "model", how)
    names = [name for name in ("config.json", "model.safetensors") if (tmp_path / "model" / name).exists()]
    text = checksums_text(tmp_path / "model", names)  # or that is all that is said
    (tmp_path / "model" / "checksums.json").write_text(text)
    with pytest.raises(UserError, match=says) as error:
        undye.load(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        undye.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no model"):
        undye.load(tmp_path)


def test_atomic_path(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "file.txt"
    with atomic_path(target) as temporary:
        assert ".tmp" in temporary.name
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]
    (tmp_path / ".left.tmp123").mkdir()
    remove_temporaries(tmp_path)
    assert not (tmp_path / ".left.tmp123").exists()


def test_neighbours_are_nobodys_business(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    opened: list[str] = []
    real = os.open

    def watch(path, *args, **kwargs):
        opened.append(str(path))
        return real(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watch)
        with atomic_path(tmp_path / "file", durable=True) as temporary:
            temporary.write_text("y")
    assert str(secret) not in opened
    assert str(tmp_path) in opened, "the folder's list of names is made durable"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "train_state/tensors.safetensors"])
def test_one_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "model", model(), TrainState({"a": torch.zeros(3)}, {"step": 1}))
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    read = load_train_state if name.startswith("train_state") else undye.load
    with pytest.raises(UserError, match=f"{name} is damaged .its SHA-256"):
        read(folder)


def test_missing_checksums_are_missed_unless_an_older_version_wrote_the_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", model(), TrainState({"a": torch.zeros(3)}, {"step": 1}))
    (folder / "checksums.json").unlink()
    for read in (load_train_state, undye.load):
        with pytest.raises(UserError, match=r"checksums\.json is missing.*use an earlier checkpoint"):
            read(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["checksums"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_train_state(folder).values == {"step": 1}
    undye.load(folder)


def test_a_file_that_was_changed_on_purpose_is_taken_with_its_own_checksum(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", model())
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"write [0-9a-f]{64} there") as error:
        undye.load(folder)
    found = str(error.value).split()[-2]
    stored = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps(stored | {"config.json": found}))
    undye.load(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_damaged_checksums(tmp_path: Path, content: bytes) -> None:
    folder = save(tmp_path / "model", model())
    (folder / "checksums.json").write_bytes(content)
    with pytest.raises(UserError, match=r"checksums\.json is damaged"):
        undye.load(folder)
