import logging
import struct
import warnings
import zlib

import numpy as np
import pytest

from undye.data import ArraySource, EncodedSource, encoded, load_images
from undye.errors import TooManyBadImages, UserError

GREY = np.full((8, 8), 77, dtype=np.uint8)


def everything(source):
    return source.images(np.arange(len(source)))


@pytest.fixture(params=["whole", "too many files", "too many bytes"])
def kind(request, monkeypatch):
    """The three ways in which a folder is held."""
    if request.param == "too many files":
        monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    if request.param == "too many bytes":
        monkeypatch.setattr(encoded, "MAX_DECODED_BYTES", 0)
    return request.param


def test_images_come_in_order(kind, save, tmp_path):
    for k, name in enumerate(["a/1.png", "a/2.png", "b.png"]):
        save(name, np.full((4, 6, 3), (k, 9, 0), dtype=np.uint8))
    source = load_images(tmp_path)
    assert isinstance(source, ArraySource if kind == "whole" else EncodedSource)
    assert (len(source), source.image_size, source.channels) == (3, (4, 6), 3)
    assert everything(source)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert source.images(np.array([2, 0, 0]))[:, 0, 0, 0].tolist() == [2, 0, 0]
    assert source.images(np.array([-1]))[0, 0, 0, 0] == 2
    with pytest.raises(IndexError):
        source.images(np.array([3]))
    assert source.labels(np.arange(3)) is None
    assert source.num_classes is None
    assert source.describe() == f"{tmp_path}: 3 images 4x6x3"


def test_channels_are_the_datas(kind, save, tmp_path):
    save("a.png", GREY)
    save("b.png", np.repeat(GREY[..., None], 3, axis=2))  # stored as RGB, but grey
    source = load_images(tmp_path)
    assert source.channels == 1
    assert (everything(source) == 77).all()
    assert load_images(tmp_path, channels=3).images(np.array([0])).shape == (1, 8, 8, 3)
    save("c.png", np.full((8, 8, 3), (255, 0, 0), dtype=np.uint8))
    source = load_images(tmp_path)
    assert source.channels == 3
    assert (everything(source)[:2] == 77).all()
    luma = load_images(tmp_path, channels=1)
    assert everything(luma)[2].max() == everything(luma)[2].min() == 76


def test_a_folder_of_grey_files(kind, save, tmp_path):
    save("a.png", GREY)
    assert load_images(tmp_path).channels == 1


def test_resize(kind, save, tmp_path):
    save("a.png", size=(20, 30))
    save("b.jpg", size=(64, 9))
    assert everything(load_images(tmp_path, image_size=(8, 9))).shape == (2, 8, 9, 3)


def test_sizes_that_differ_need_image_size(kind, save, tmp_path):
    save("a.png", size=(20, 30))
    save("b.png", size=(30, 20))
    with pytest.raises(UserError, match=r"a\.png is 20x30, b\.png 30x20.*--image-size"):
        load_images(tmp_path)


def test_two_of_500_are_named_and_skipped(kind, save, tmp_path):
    content = save("000.png", GREY).read_bytes()
    for k in range(1, 500):
        save(f"{k:03}.png", content)
    save("123.png", content[:-30])
    save("400.png", b"not a picture")
    source = load_images(tmp_path)
    everything(source)
    assert [str(bad.path) for bad in sorted(source.report.bad, key=lambda b: b.path)] == ["123.png", "400.png"]
    assert source.report.total == 500
    assert source.describe().endswith("images 8x8x1, 2 skipped")
    # When only headers were read, the cut file is found late, and another stands in for it.
    assert len(source) == (499 if kind == "too many files" else 498)


def test_the_others_keep_their_places(kind, save, tmp_path):
    for k in range(6):
        save(f"{k // 3}/{k}.png", np.full((8, 8), k, dtype=np.uint8))
    cut = tmp_path / "0/1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    source = load_images(tmp_path, labels="folders", max_bad_fraction=0.2)
    late = [2] if kind == "too many files" else []  # the stand-in
    assert everything(source)[:, 0, 0, 0].tolist() == [0, *late, 2, 3, 4, 5]
    assert source.labels(np.arange(len(source))).tolist() == [0, *(0 for _ in late), 0, 1, 1, 1]


def test_above_five_percent(kind, save, tmp_path):
    for k in range(20):
        save(f"{k:02}.png", GREY)
    save("03.png", b"")
    load_images(tmp_path)  # 1 of 20 is 5 %
    save("04.png", b"x")
    with pytest.raises(
        TooManyBadImages, match=r"^2 of 20 .*5%.*03\.png: the file is empty; 04\.png: not an image"
    ) as e:
        load_images(tmp_path)
    assert "\n" not in str(e.value)
    assert len(load_images(tmp_path, max_bad_fraction=0.1)) == 18


def test_all_bad_is_an_error_whatever_is_allowed(kind, save, tmp_path):
    save("a.png", b"")
    with pytest.raises(TooManyBadImages, match="1 of 1"):
        load_images(tmp_path, max_bad_fraction=1.0)


def test_small_images(kind, save, tmp_path):
    for k in range(5):
        save(f"{k}.png", size=(16, 40))
    with pytest.raises(
        TooManyBadImages, match=r"0\.png: 16x40 is smaller than 32x32.*2 more.*5 are too small.*--upscale"
    ):
        load_images(tmp_path, image_size=(32, 32))
    assert everything(load_images(tmp_path, image_size=(32, 32), upscale=True)).shape == (5, 32, 32, 3)


def test_labels_are_the_first_folders(kind, save, tmp_path):
    for name in ["dog/x/1.png", "cat/2.png", "cat/y/3.png"]:
        save(name, GREY)
    source = load_images(tmp_path, labels="folders")
    assert source.class_names == ("cat", "dog")
    assert source.num_classes == 2
    assert source.labels(np.array([2, 1, 0])).tolist() == [1, 0, 0]
    assert load_images(tmp_path).class_names is None
    save("stray.png", GREY)
    with pytest.raises(UserError, match=r"^stray\.png lies in no class folder"):
        load_images(tmp_path, labels="folders")


def test_split(save, tmp_path):
    save("train/a/1.png", GREY)
    save("train/b/2.png", GREY)
    assert len(load_images(tmp_path, split="test")) == 2  # no `test` beside it: one set
    save("test/a/3.png", GREY)
    train, test = (load_images(tmp_path, split=split, labels="folders") for split in ("train", "test"))
    assert (len(train), train.class_names) == (2, ("a", "b"))
    assert (len(test), test.class_names) == (1, ("a",))


def test_late_bad_file_gets_a_stand_in_of_its_class(save, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    for k in range(10):
        save(f"{'ab'[k % 2]}/{k}.png", np.full((8, 8), k, dtype=np.uint8))
    sources = [load_images(tmp_path, labels="folders", max_bad_fraction=0.2) for _ in range(2)]
    for name in ("a/8.png", "b/1.png"):  # the last of its class, and the first
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING, "undye.data"):
        got = everything(sources[0])[:, 0, 0, 0].tolist()
    said = sorted(record.getMessage().split(":")[0] for record in caplog.records)
    assert said == ["skipped a/8.png", "skipped b/1.png"]
    assert got == [0, 2, 4, 6, 0, 3, 3, 5, 7, 9]
    assert sources[0].labels(np.arange(10)).tolist() == [0] * 5 + [1] * 5
    # Whatever was asked for before, the same index gives the same image.
    assert [sources[1].images(np.array([i]))[0, 0, 0, 0] for i in reversed(range(10))] == got[::-1]
    assert [str(bad.path) for bad in sources[0].report.bad] == ["a/8.png", "b/1.png"]
    (tmp_path / "b/3.png").write_bytes(b"")
    with pytest.raises(TooManyBadImages, match="3 of 10"):
        everything(sources[0])


def test_a_class_without_a_readable_image(save, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    save("a/1.png", GREY)
    save("b/2.png", GREY)
    source = load_images(tmp_path, labels="folders", max_bad_fraction=0.9)
    (tmp_path / "b/2.png").unlink()
    with pytest.raises(UserError, match="no readable image left"):
        source.images(np.array([1]))


def test_progress(kind, save, tmp_path):
    for k in range(5):
        save(f"{k}.png", GREY)
    calls = []
    load_images(tmp_path, progress=lambda i, n: calls.append((i, n)))
    assert calls == [(k, 5) for k in range(1, 6)]


def test_odd_names_stay_on_one_line(save, tmp_path):
    save("a\nb\x1b[31m.png", b"")
    with pytest.raises(TooManyBadImages) as error:
        load_images(tmp_path)
    assert str(error.value).isprintable()


def test_a_bomb_among_images_is_skipped_without_a_sound(save, tmp_path):
    for k in range(20):
        save(f"{k}.png", GREY)
    header = struct.pack(">IIBBBBB", 9_500, 9_500, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    save("3.png", b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0\0\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = load_images(tmp_path)
    assert "90,250,000 pixels" in source.report.bad[0].reason


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        load_images(tmp_path)
