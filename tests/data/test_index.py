"""What is kept of a large folder or archive, and when it is not believed."""

import os
import zipfile

import numpy as np
import pytest

from undye.data import encoded, folder, index, load_images
from undye.data.cache import index_cache

OLD = 1_600_000_000


@pytest.fixture
def images(save, tmp_path, monkeypatch):
    """Six files in two folders, too many to be decoded whole, last changed long ago."""
    monkeypatch.setattr(encoded, "MAX_DECODED", 3)
    for k in range(6):
        save(f"set/{'ab'[k % 2]}/{k}.png", np.full((4, 4), k, dtype=np.uint8))
    age(tmp_path / "set")
    return tmp_path / "set"


def age(root):
    for here, _, files in os.walk(root):
        for name in [*files, "."]:
            os.utime(os.path.join(here, name), (OLD, OLD))


@pytest.fixture
def walks(monkeypatch):
    """Counts how often a folder is walked through, and how many headers are read."""
    counts = {"walks": 0, "headers": 0}
    walk, read = folder.list_folder, encoded.read_header

    def counted_walk(root):
        counts["walks"] += 1
        return walk(root)

    def counted_read(file):
        counts["headers"] += 1
        return read(file)

    monkeypatch.setattr(folder, "list_folder", counted_walk)
    monkeypatch.setattr(encoded, "read_header", counted_read)
    return counts


def values(source):
    return source.images(np.arange(len(source)))[:, 0, 0, 0].tolist()


def test_the_second_start_reads_nothing(images, walks):
    first = load_images(images, labels="folders")
    assert walks == {"walks": 1, "headers": 6}
    second = load_images(images, labels="folders")
    assert walks == {"walks": 1, "headers": 6}
    assert values(first) == values(second) == [0, 2, 4, 1, 3, 5]
    assert second.class_names == ("a", "b")
    assert second.describe() == first.describe()
    assert second.names(np.array([3])) == ["b/1.png"]
    assert not [path for path in images.rglob("*") if path.suffix not in ("", ".png")], (
        "nothing is left beside the data"
    )


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "replaced", "overwritten", "new folder"])
def test_a_changed_folder_is_read_anew(images, walks, save, change):
    load_images(images)
    if change == "added":
        save("set/a/7.png", np.full((4, 4), 7, dtype=np.uint8))
    elif change == "removed":
        (images / "a/0.png").unlink()
    elif change == "renamed":
        (images / "a/0.png").rename(images / "a/zero.png")
    elif change == "replaced":
        (images / "b/1.png").rename(images / "a/0.png")
    elif change == "overwritten":  # in place, no folder changes: the sample of so few files is all of them
        save("set/a/0.png", np.full((4, 4), 99, dtype=np.uint8))
    else:
        save("set/c/9.png", np.full((4, 4), 9, dtype=np.uint8))
    load_images(images)
    assert walks["walks"] == 2


def test_what_is_too_young_is_not_kept(images, walks):
    os.utime(images / "a")
    for _ in range(2):
        load_images(images)
    assert walks["walks"] == 2
    assert not index_cache().exists()


def test_bad_files_and_colour_are_kept(images, walks, save):
    (images / "a/0.png").write_bytes(b"no picture")
    for name in ("b/5.png", "b/1.png"):
        save(f"set/{name}", np.full((4, 4, 3), 50, dtype=np.uint8))  # RGB, but grey
    age(images)
    sources = [load_images(images, max_bad_fraction=0.5) for _ in range(2)]
    assert walks == {"walks": 1, "headers": 6}
    assert [source.channels for source in sources] == [1, 1]
    assert [str(source.report.bad[0]) for source in sources] == ["a/0.png: not an image that can be read"] * 2
    looked = []
    encoded_read = encoded.read_pixels
    encoded.read_pixels = lambda *args: looked.append(args) or encoded_read(*args)
    try:
        load_images(images, max_bad_fraction=0.5)
        assert not looked, "whether there is colour is known"
        load_images(images, max_bad_fraction=0.5, image_size=(2, 2))
        assert looked, "at this size it is not"
        looked.clear()
        load_images(images, max_bad_fraction=0.5, image_size=(2, 2))
        assert not looked
    finally:
        encoded.read_pixels = encoded_read


def test_a_damaged_index_is_made_anew(images, walks):
    load_images(images)
    (path,) = index_cache().iterdir()
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        broken = bytearray(content)
        if trial % 3 == 0:
            broken = broken[: rng.integers(len(content))]
        else:
            for at in rng.integers(0, min(len(content), 2000), 3):
                broken[at] = rng.integers(256)
        path.write_bytes(broken)
        source = load_images(images)
        assert len(source) == 6
    path.write_bytes(b"")
    assert values(load_images(images)) == [0, 2, 4, 1, 3, 5]


def test_a_cache_that_cannot_be_written_is_done_without(images, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "file"))
    assert len(load_images(images)) == 6


def test_a_file_that_vanished_unnoticed_is_named_when_opened(images, caplog):
    load_images(images)
    status = (images / "a").stat()
    (images / "a/2.png").unlink()
    os.utime(images / "a", ns=(status.st_mtime_ns, status.st_mtime_ns))
    index_sampled = index.SAMPLED
    try:
        index.SAMPLED = 2
        source = load_images(images, max_bad_fraction=0.2)
        assert len(source) in (5, 6)  # the sample of the index was made before
        everything = values(source)
    finally:
        index.SAMPLED = index_sampled
    assert 2 not in everything


def test_an_archive_is_walked_once(save, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "MAX_DECODED", 1)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for k in range(3):
            archive.write(save(f"{k}.png", np.full((4, 4), k, dtype=np.uint8)), f"{k}.png")
    os.utime(tmp_path / "x.zip", (OLD, OLD))
    first = values(load_images(tmp_path / "x.zip"))
    monkeypatch.setattr("undye.data.zips.zipfile.ZipFile", None)
    assert values(load_images(tmp_path / "x.zip")) == first == [0, 1, 2]
    os.utime(tmp_path / "x.zip", (OLD + 1, OLD + 1))
    with pytest.raises(TypeError):
        load_images(tmp_path / "x.zip")
