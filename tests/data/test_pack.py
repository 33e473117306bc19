"""Packed data sets: the same images, mapped; damage found; nothing left behind."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

import undye
from tests.data.test_archives import MEMBERS, make_tar, make_zip, png
from undye.data import PackSource, load_images
from undye.data.pack import verify
from undye.data.tensor_file import TensorWriter, read_tensors, write_tensors
from undye.errors import TooManyBadImages, UserError


@pytest.fixture
def packed(tmp_path):
    undye.pack(make_zip(tmp_path / "x.zip", MEMBERS), tmp_path / "x.pack", labels="folders")
    return tmp_path / "x.pack"


def same(a, b):
    every = np.arange(len(a))
    assert len(a) == len(b)
    assert np.array_equal(a.images(every), b.images(every))
    assert a.class_names == b.class_names
    if a.class_names is not None:
        assert np.array_equal(a.labels(every), b.labels(every))


def test_a_pack_is_what_it_was_made_from(packed, tmp_path):
    source = load_images(packed)
    assert isinstance(source, PackSource)
    same(source, load_images(tmp_path / "x.zip", labels="folders"))
    assert source.names(np.array([3])) == ["b/1.png"]
    assert load_images(packed, labels="none").class_names is None
    assert load_images(packed, channels=3).images(np.array([5])).shape == (1, 4, 4, 3)
    assert source.images(np.array([-1, 0, 0])).shape == (3, 4, 4, 1)
    assert isinstance(source._images, np.memmap)
    assert verify(packed) == read_tensors(packed)[1]["sha256"]
    assert load_file(packed)["labels"].tolist() == [0, 0, 0, 1, 1, 1], "it is a safetensors file"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_archives_are_packed(mode, packed, tmp_path):
    path = make_tar(tmp_path / f"y.tar.{mode[2:]}", MEMBERS, mode)
    result = undye.pack(path, tmp_path / "y.pack", labels="folders")
    assert result.report.bad == ()
    same(load_images(tmp_path / "y.pack"), load_images(packed))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged"):
        undye.pack(path, tmp_path / "z.pack")


def test_a_bomb_of_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr("undye.data.packing._SMALL", 2**20)
    path = make_tar(tmp_path / "y.tar.gz", {"a.png": bytes(2**22)}, "w:gz")
    with pytest.raises(UserError, match="decompression bomb"):
        undye.pack(path, tmp_path / "y.pack")
    assert os.listdir(tmp_path) == ["y.tar.gz"]


def test_named_sets_and_arrays_are_packed(tmp_path):
    undye.pack("fashion-mini", tmp_path / "f.pack", split="test")
    same(load_images(tmp_path / "f.pack"), load_images("fashion-mini", split="test"))
    images = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    undye.pack(images, tmp_path / "a.pack", image_size=3)
    assert load_images(tmp_path / "a.pack").image_size == (3, 3)


def test_bad_images_are_left_out_and_named(tmp_path):
    members = {f"{'ab'[k % 2]}/{k:02}.png": png(k) for k in range(40)}
    members["a/10.png"] = members["a/10.png"][:-20]  # only decoding shows it
    members["b/11.png"] = b"no picture"
    path = make_zip(tmp_path / "x.zip", members)
    result = undye.pack(path, tmp_path / "x.pack", labels="folders")
    assert sorted(str(bad.path) for bad in result.report.bad) == ["a/10.png", "b/11.png"]
    source = load_images(tmp_path / "x.pack")
    assert source.images(np.arange(38))[:, 0, 0, 0].tolist() == [*range(0, 10, 2), *range(12, 40, 2), *range(1, 10, 2),
                                                                *range(13, 40, 2)]  # fmt: skip
    assert source.labels(np.arange(38)).tolist() == [0] * 19 + [1] * 19
    with pytest.raises(TooManyBadImages):
        undye.pack(path, tmp_path / "y.pack", max_bad_fraction=0.03)
    assert not (tmp_path / "y.pack").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_pack_leaves_nothing(tmp_path):
    def stop(done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        undye.pack(make_zip(tmp_path / "x.zip", MEMBERS), tmp_path / "x.pack", progress=stop)
    assert os.listdir(tmp_path) == ["x.zip"]


def test_mistakes(packed, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        undye.pack("fashion-mini", packed)
    with pytest.raises(UserError, match=r"ends in \.pack"):
        undye.pack("fashion-mini", tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"holds 4x4 images.*--image-size 8x8"):
        load_images(packed, image_size=(8, 8))
    with pytest.raises(UserError, match="--labels auto"):
        load_images(packed, labels="folders")
    write_tensors(tmp_path / "other.pack", {"images": np.zeros((1, 2, 2, 1), dtype=np.uint8)}, {})
    with pytest.raises(UserError, match="was not written by undye data pack"):
        load_images(tmp_path / "other.pack")


def test_a_changed_pixel_is_found(packed):
    content = bytearray(packed.read_bytes())
    start = 8 + struct.unpack_from("<Q", content)[0]
    content[start + 5] ^= 1
    packed.write_bytes(content)
    load_images(packed)
    with pytest.raises(UserError, match="checksum is wrong"):
        verify(packed)


def test_damaged_packs_give_one_line(packed):
    content = packed.read_bytes()
    header = content.find(b'"sha256"')
    rng = np.random.default_rng(0)
    for trial in range(300):
        broken = bytearray(content)
        if trial % 3 == 0:
            broken = broken[: rng.integers(len(content))]
        else:
            for at in rng.integers(0, header, 1 + trial % 4):
                broken[at] = rng.choice(list(b'0123456789"{}[],:aU')) if trial % 3 == 1 else rng.integers(256)
        packed.write_bytes(broken)
        try:
            source = load_images(packed)
            source.images(np.arange(min(len(source), 10)))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "U8", "shape": [-8], "data_offsets": [0, 8]},
        {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]},
        {"dtype": "U8", "shape": [8.0], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
        {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]},
        [],
        None,
    ],
)
def test_headers_that_lie(entry, tmp_path):
    text = json.dumps({"x": entry}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UserError, match="x is damaged"):
        read_tensors(tmp_path / "x")


def test_tensor_files(tmp_path):
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.arange(6, dtype=np.int64).reshape(2, 3)}
    arrays["none"] = np.zeros((0, 3), dtype=np.int32)
    write_tensors(tmp_path / "x", arrays, {"é": "\n" * 9000})
    tensors, about = read_tensors(tmp_path / "x")
    assert about == {"é": "\n" * 9000}
    assert all(np.array_equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in arrays.items())
    assert np.array_equal(load_file(tmp_path / "x")["b"], arrays["b"])
    with TensorWriter(tmp_path / "y") as writer:
        writer.append(np.zeros(3, dtype=np.uint8))
        with pytest.raises(ValueError, match="3 bytes"):
            writer.finish("a", np.uint8, (4,))
