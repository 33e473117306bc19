"""Files of weights, whoever's: wrappers' names, containers, safetensors, and what people have in their place."""

import json
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import undye
from tests.checkpoint.test_original import SIZE, tiny_weights
from undye.checkpoint.content import without_prefixes
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import read_foreign
from undye.checkpoint.native import save
from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser


@pytest.fixture(scope="module")
def weights():
    return tiny_weights()


@pytest.fixture
def read(tmp_path):
    """What becomes of a content that torch.save has written."""

    def read(content, **settings):
        torch.save(content, tmp_path / "m.pt")
        return read_foreign(tmp_path / "m.pt", Settings.of(SIZE | settings))

    return read


def bias(found):
    return found.denoiser.network.state_dict()["conv_in.bias"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_come_off(weights, read, prefix):
    wrapped = {prefix + k: v for k, v in weights.items()}
    other = {k: v + 1 for k, v in wrapped.items()}
    for content in (wrapped, [wrapped, {}, 0], [other, {}, 0, 0, wrapped], {"state_dict": wrapped, "epoch": 3}):
        assert bias(read(content)).equal(weights["conv_in.bias"])


def test_prefixes_within_names():
    content = {"a._orig_mod.b": 1, "module.c": [{"module.d": {"module.e": 2}}], 3: "module."}
    found = without_prefixes(content, Path("m.pt"))
    # no deeper than two containers in one another: an optimiser's state is nobody's weights
    assert found == {"a.b": 1, "c": [{"module.d": {"module.e": 2}}], 3: "module."}
    assert without_prefixes([{"_orig_mod.d": 1}], Path("m.pt")) == [{"d": 1}]
    assert without_prefixes({"a_orig_mod.b": 1, "a.module.b": 2}, Path("m.pt")) == {"a_orig_mod.b": 1, "a.module.b": 2}


def test_a_name_with_and_without_a_prefix(weights, read):
    with pytest.raises(undye.UserError, match=r"'conv_in.bias' is there twice"):
        read(weights | {"module.conv_in.bias": weights["conv_in.bias"]})


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "ema", "net"])
def test_a_container_of_one_model_is_opened(weights, read, key):
    found = read({"epoch": 3, key: OrderedDict(weights), "optimizer": {"state": {}}})
    assert bias(found).equal(weights["conv_in.bias"])
    assert f"weights: read from {key!r} of the file, which holds 'epoch', {key!r}, 'optimizer'" in found.notes
    kind = "ema" if key == "ema" else "model"
    for said in (key, kind):
        assert bias(read({key: weights}, weights=said)).equal(weights["conv_in.bias"])
    with pytest.raises(undye.UserError, match="no such setting"):
        read({key: weights}, weights={"ema": "model", "model": "ema"}[kind])


def test_of_two_models_the_averaged_one_is_taken(weights, read):
    other = {k: v + 1 for k, v in weights.items()}
    content = {"model": other, "model_ema": weights}
    for settings, expected in [
        ({}, weights),
        ({"weights": "ema"}, weights),
        ({"weights": "model"}, other),
        ({"weights": "model_ema"}, weights),
    ]:
        assert bias(read(content, **settings)).equal(expected["conv_in.bias"])
    for several, settings in [
        ({"a": weights, "b": other}, {}),
        ({"ema1": weights, "ema2": other}, {}),
        (content, {"weights": "best"}),
    ]:
        with pytest.raises(undye.UserError, match=r"holds several models: say which, --set weights='\w+' or '\w+'"):
            read(several, **settings)
    assert bias(read({"a": weights, "b": other}, weights="b")).equal(other["conv_in.bias"])


def test_what_is_no_tensor_is_named(weights, read):
    with pytest.raises(undye.UserError, match="'epoch' is of type int"):
        read(weights | {"epoch": 3})
    with pytest.raises(undye.UserError, match="one of its names is of type int"):
        read(weights | {3: weights["conv_in.bias"]})
    with pytest.raises(undye.UserError, match="'epoch' is of type int"):
        read({"state_dict": weights | {"epoch": 3}})


def test_containers_that_hold_themselves(weights, read):
    content = {"a": weights}
    content["b"] = content
    read(content)
    content = [weights]
    content.append(content)
    read(content)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_a_lone_safetensors_file_is_read_like_any_other(weights, name, tmp_path):
    save_file({f"module.{k}": v for k, v in weights.items()}, tmp_path / name)
    found = undye.load(tmp_path / name, settings=SIZE)
    assert found.network.state_dict()["conv_in.bias"].equal(weights["conv_in.bias"])


def test_safetensors_that_need_what_lies_beside_them(tmp_path):
    network = CompactConfig(channels=(8,), blocks=(0,), head_channels=0)
    folder = save(tmp_path / "own", Denoiser.from_config(ModelConfig(network=network, image_size=(8, 8))))
    with pytest.raises(undye.UserError, match="weights of an undye checkpoint: give the folder"):
        undye.load(folder / "model.safetensors")
    save_file({"time_embedding.linear_1.weight": torch.zeros(1)}, tmp_path / "d.safetensors")
    with pytest.raises(undye.UserError, match="of a diffusers network alone: give the folder"):
        undye.load(tmp_path / "d.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "o.safetensors")
    with pytest.raises(undye.UserError, match=r"not a model that undye knows .its first keys are 'a'"):
        undye.load(tmp_path / "o.safetensors")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
            "a pointer of git-lfs, .* git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>Too many requests", "a web page, not a model"),
        (b"<HTML>", "a web page, not a model"),
        (b"hello, this is a note\n", "a text file, not a model"),
        (bytes(1000), "is damaged, or no file of torch.save|is damaged, or no safetensors file"),
    ],
)
def test_what_people_have_in_place_of_a_model(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(undye.UserError, match=says) as error:
        undye.load(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "earlier checkpoint" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_a_torchscript_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"m/{name}", b"3\n")
    with pytest.raises(undye.UserError, match="is a TorchScript program: give the state dict"):
        undye.load(tmp_path / "m.pt")


def test_what_a_pickle_asked_for_is_named(tmp_path):
    torch.save({"a": np.float64(3)}, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match=r"more than tensors and plain data.* it asks for numpy\.\S+\.scalar "):
        undye.load(tmp_path / "m.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match=r"it asks for torch\.nn\.modules\.linear\.Linear "):
        undye.load(tmp_path / "m.pt")


def test_damaged_safetensors(weights, tmp_path, ways):
    """A clear error or a model, never another exception; most of the damage is to the header."""
    small = {k: v for k, v in weights.items() if v.numel() < 2000}  # reading it is what is tested, not a whole model
    save_file(small, tmp_path / "whole.safetensors")
    whole, rng, messages = (tmp_path / "whole.safetensors").read_bytes(), np.random.default_rng(3), []
    head = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "m.safetensors"
    for k in range(ways):
        data, at = bytearray(whole), int(rng.integers(head if k % 8 else len(whole)))
        match rng.integers(4):
            case 0:
                data = data[:at]
            case 1:
                data[at] = rng.integers(256)
            case 2:
                data[at:at] = bytes(rng.choice([b"9", b"-", b'"', b"[", b"null", b"1e999", b"\x00", b"F64", b"BF16"]))
            case 3:
                del data[at : at + int(rng.integers(1, 100))]
        path.write_bytes(bytes(data))
        try:
            undye.load(path, settings=SIZE)
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) == ways
    assert not any("\n" in message for message in messages)


def test_a_header_that_claims_a_hundred_gigabytes(tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [25 * 2**30], "data_offsets": [0, 100 * 2**30]}}).encode()
    for content in ((100 * 2**30).to_bytes(8, "little") + b"{}", len(header).to_bytes(8, "little") + header):
        (tmp_path / "m.safetensors").write_bytes(content)
        with pytest.raises(undye.UserError, match="damaged"):
            undye.load(tmp_path / "m.safetensors")


def test_numbers_of_another_kind(weights, tmp_path):
    odd = weights | {"conv_in.bias": torch.zeros(32, dtype=torch.float8_e4m3fn)}
    save_file(odd, tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors")
    with pytest.raises(undye.UserError, match=r"'conv_in.bias' is no plain"):
        undye.load(tmp_path / "m.safetensors", settings=SIZE)
