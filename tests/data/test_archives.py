"""ZIP and TAR archives, and shards: the same images as from the folder that they were made from."""

import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from undye.data import EncodedSource, encoded, load_images, zips
from undye.errors import TooManyBadImages, UserError


def png(value, size=(4, 4)):
    out = io.BytesIO()
    Image.fromarray(np.full(size, value, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


MEMBERS = {f"{'ab'[k % 2]}/{k}.png": png(k) for k in range(6)}


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MAKERS = {
    "zip": lambda path, members: make_zip(path.with_suffix(".zip"), members),
    "stored zip": lambda path, members: make_zip(path.with_suffix(".zip"), members, zipfile.ZIP_STORED),
    "tar": lambda path, members: make_tar(path.with_suffix(".tar"), members),
}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    return lambda members: MAKERS[request.param](tmp_path / "x", members)


@pytest.fixture(params=["whole", "late"])
def late(request, monkeypatch):
    if request.param == "late":
        monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    return request.param == "late"


def values(source):
    return source.images(np.arange(len(source)))[:, 0, 0, 0].tolist()


def test_an_archive_is_like_its_folder(make, late, tmp_path):
    for name, content in MEMBERS.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    shuffled = dict(sorted(MEMBERS.items(), key=lambda item: zlib.crc32(item[0].encode())))
    from_folder = load_images(tmp_path / "folder", labels="folders")
    from_archive = load_images(make(shuffled), labels="folders")
    assert isinstance(from_archive, EncodedSource) == late
    every = np.arange(6)
    assert np.array_equal(from_folder.images(every), from_archive.images(every))
    assert from_folder.labels(every).tolist() == from_archive.labels(every).tolist() == [0, 0, 0, 1, 1, 1]
    assert from_folder.names(every) == from_archive.names(every)
    assert from_archive.class_names == ("a", "b")


def test_folders_around_everything_and_junk_and_split(make, late):
    junk = {"data/.DS_Store": b"x", "__MACOSX/data/a/._0.png": b"x", "data/readme.txt": b"x", "data/a/.x.png": b"x"}
    source = load_images(make({**{f"data/{name}": c for name, c in MEMBERS.items()}, **junk}), labels="folders")
    assert source.class_names == ("a", "b")
    members = {"set/train/a/0.png": png(0), "set/train/b/1.png": png(1), "set/test/a/2.png": png(2)}
    path = make(members)
    assert values(load_images(path)) == [0, 1]
    assert values(load_images(path, split="test", labels="folders")) == [2]


def test_bad_members_are_named(make, late):
    members = {**{f"{k:02}.png": png(k) for k in range(38)}, "cut.png": png(1)[:-20], "no.png": b"no picture"}
    source = load_images(make(members), max_bad_fraction=0.1)
    values(source)
    assert sorted(str(bad.path) for bad in source.report.bad) == ["cut.png", "no.png"]


def test_members_that_lead_out_are_bad(make, late, tmp_path):
    members = {**{f"a/{k}.png": png(k) for k in range(30)}, "../../evil.png": png(1)}
    source = load_images(make(members))
    assert len(source) == 30
    assert [bad.reason for bad in source.report.bad] == ["its name leads out of the archive"]
    assert not list(tmp_path.parent.rglob("evil.png"))


def test_no_images_and_no_class(make):
    with pytest.raises(UserError, match="no images in"):
        load_images(make({"a.txt": b"x"}))
    with pytest.raises(UserError, match=r"0\.png lies in no class folder"):
        load_images(make({"0.png": png(0)}), labels="folders")


def test_encrypted_members(tmp_path):
    path = make_zip(tmp_path / "x.zip", MEMBERS)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    source = load_images(path, max_bad_fraction=0.5)
    assert [str(bad) for bad in source.report.bad] == ["a/0.png: encrypted"]
    while (at := content.find(b"PK\x01\x02", at + 1)) > 0:
        content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted: unpack it"):
        load_images(path)


def test_claims_are_not_believed(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "x.zip", MEMBERS)
    content = bytearray(path.read_bytes())
    first = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", first + 1)
    struct.pack_into("<I", content, first + 24, 2**31)  # a claim of 2 GiB
    struct.pack_into("<I", content, second + 24, 10)  # and one of less than is there
    path.write_bytes(content)
    source = load_images(path, max_bad_fraction=0.5)
    assert [bad.reason.split(":")[0] for bad in source.report.bad] == ["claims 2,147,483,648 bytes", "damaged"]
    monkeypatch.setattr(zips, "MAX_BYTES", 1000)
    bomb = make_zip(tmp_path / "bomb.zip", {"a.png": b"\0" * 5000, "b.png": png(1)})
    assert "claims 5,000 bytes" in load_images(bomb, max_bad_fraction=0.5).report.bad[0].reason


def test_unknown_packing_is_named(tmp_path):
    path = make_zip(tmp_path / "x.zip", {"a.png": png(0)}, zipfile.ZIP_BZIP2)
    with pytest.raises(TooManyBadImages, match="packed with method 12"):
        load_images(path)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_cut_or_changed_archives_give_one_line(kind, tmp_path):
    path = MAKERS[kind](tmp_path / "x", MEMBERS)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(80):
        broken = bytearray(content)
        if trial % 2:
            broken = broken[: rng.integers(len(content))]
        else:
            for at in rng.integers(0, len(content), 20):
                broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            source = load_images(path, max_bad_fraction=0.9)
            source.images(np.arange(len(source)))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_cut_tar(tmp_path):
    path = make_tar(tmp_path / "x.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="is it cut short"):
        load_images(path)


def test_an_archive_that_is_cut_later(tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    path = make_tar(tmp_path / "x.tar", {f"{k}.png": png(k) for k in range(9)})
    source = load_images(path, max_bad_fraction=0.2)
    path.write_bytes(path.read_bytes()[: 8 * 1024 + 512 + 30])
    assert values(source) == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert str(source.report.bad[0]) == "8.png: the archive is cut short"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar_is_refused(mode, tmp_path):
    for name in ("x.tar." + mode[2:], "x.tar"):  # whatever it is called
        path = make_tar(tmp_path / name, MEMBERS, mode)
        with pytest.raises(UserError, match=r"compressed as a whole.*undye data pack .* --out FILE\.pack"):
            load_images(path)


def make_shards(folder, labels):
    folder.mkdir()
    for shard in range(3):
        members = {}
        for k in range(2):
            key = f"{shard * 2 + k:04}"
            members[f"{key}.png"] = png(shard * 2 + k)
            members |= labels(key, shard * 2 + k)
        make_tar(folder / f"set-{shard:03}.tar", members)
    return folder


LABELS = {
    "cls": lambda key, k: {f"{key}.cls": str(k % 2).encode()},
    "json": lambda key, k: {f"{key}.json": json.dumps({"caption": "x", "label": k % 2}).encode()},
    "names": lambda key, k: {f"{key}.cls": b"no" if k % 2 else b"a"},
}


@pytest.mark.parametrize("labels", LABELS)
def test_shards(labels, late, tmp_path):
    folder = make_shards(tmp_path / "shards", LABELS[labels])
    for data in (folder, str(folder / "set-{000..002}.tar")):
        source = load_images(data)
        assert values(source) == [0, 1, 2, 3, 4, 5]
        assert source.labels(np.arange(6)).tolist() == [0, 1] * 3
        assert source.class_names == (("a", "no") if labels == "names" else ("0", "1"))
    assert values(load_images(str(folder / "set-{001..002}.tar"))) == [2, 3, 4, 5]
    assert load_images(folder, labels="none").class_names is None


def test_shard_mistakes(tmp_path):
    folder = make_shards(tmp_path / "shards", lambda key, k: {} if k == 3 else {f"{key}.cls": b"1"})
    with pytest.raises(UserError, match=r"1 of 6 images .* have no label \(0003\.png"):
        load_images(folder)
    assert len(load_images(folder, labels="none")) == 6
    with pytest.raises(UserError, match=r"2 of 5 shards are not there.*set-003"):
        load_images(str(folder / "set-{000..004}.tar"))
    with pytest.raises(UserError, match="runs backwards"):
        load_images(str(folder / "set-{4..0}.tar"))
    with pytest.raises(UserError, match="more than 1,000,000"):
        load_images(str(folder / "set-{0..9999999}.tar"))
    make_tar(folder / "set-009.tar", {"9.png": png(1), "9.cls": b"-4"})
    with pytest.raises(UserError, match="number the classes from 0"):
        load_images(str(folder / "set-{009..009}.tar"))
