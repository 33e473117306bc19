"""Data sets of the library `datasets`, made here and saved on the disk."""

import numpy as np
import pytest
from PIL import Image

import undye
from undye.data import encoded, load_images
from undye.data.hub import HubName, parse_hub_name
from undye.errors import UserError

datasets = pytest.importorskip("datasets")


def table(count=6, **more):
    pictures = [Image.fromarray(np.full((4, 4), k, dtype=np.uint8)) for k in range(count)]
    columns = {"image": pictures, "label": [k % 2 for k in range(count)]} | {k: v(pictures) for k, v in more.items()}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    kinds |= {k: datasets.Image() for k in more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(params=["whole", "late"])
def late(request, monkeypatch):
    if request.param == "late":
        monkeypatch.setattr(encoded, "MAX_DECODED", 0)


def values(source):
    return source.images(np.arange(len(source)))[:, 0, 0, 0].tolist()


def test_a_saved_data_set(late, tmp_path):
    table().save_to_disk(tmp_path / "set")
    for data in (tmp_path / "set", f"hf:{tmp_path / 'set'}", f"hf:{tmp_path / 'set'}?image=image&label=label"):
        for _ in range(2):  # the second time what is kept of it is used
            source = load_images(data)
            assert values(source) == [0, 1, 2, 3, 4, 5]
            assert source.labels(np.arange(6)).tolist() == [0, 1] * 3
            assert source.class_names == ("cat", "dog")
    assert source.names(np.array([4])) == ["row 4"]
    assert load_images(tmp_path / "set", labels="none").class_names is None


def test_splits(tmp_path):
    datasets.DatasetDict({"train": table(4), "test": table(2)}).save_to_disk(tmp_path / "set")
    assert len(load_images(tmp_path / "set")) == 4
    assert len(load_images(tmp_path / "set", split="test")) == 2
    assert len(load_images(f"hf:{tmp_path / 'set'}:test")) == 2
    with pytest.raises(UserError, match="no split dev: it has train, test"):
        load_images(f"hf:{tmp_path / 'set'}:dev")


def test_load_dataset_and_its_stream(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table().to_parquet(tmp_path / "set/train.parquet")
    source = load_images(f"hf:{tmp_path / 'set'}")
    assert values(source) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"a stream's images cannot be asked for.*undye data pack"):
        load_images(f"hf-stream:{tmp_path / 'set'}")
    undye.pack(f"hf-stream:{tmp_path / 'set'}", tmp_path / "x.pack", channels=1)
    packed = load_images(tmp_path / "x.pack")
    assert values(packed) == [0, 1, 2, 3, 4, 5]
    assert packed.labels(np.arange(6)).tolist() == [0, 1] * 3
    assert packed.class_names == ("cat", "dog")


def test_columns_are_found_or_named(tmp_path):
    table(other=lambda pictures: pictures[::-1]).save_to_disk(tmp_path / "two")
    with pytest.raises(
        UserError, match=r"2 columns of images \(columns: image, label, other\); choose one: hf:.*\?image=image"
    ):
        load_images(tmp_path / "two")
    assert values(load_images(f"hf:{tmp_path / 'two'}?image=other")) == [5, 4, 3, 2, 1, 0]
    with pytest.raises(UserError, match=r"choose one: hf-stream:.*\?image=image"):
        undye.pack(f"hf-stream:{tmp_path / 'two'}", tmp_path / "x.pack")
    with pytest.raises(UserError, match="no column picture: it has image, label, other"):
        load_images(f"hf:{tmp_path / 'two'}?image=picture")
    with pytest.raises(UserError, match=r"holds ClassLabel.*no images"):
        load_images(f"hf:{tmp_path / 'two'}?image=label")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(UserError, match=r"no column of images \(columns: text\)"):
        load_images(tmp_path / "text")


def test_a_row_without_an_image_is_bad(tmp_path):
    rows = table(30).to_list()
    rows[7]["image"] = None
    datasets.Dataset.from_list(rows, features=table(1).features).save_to_disk(tmp_path / "set")
    source = load_images(tmp_path / "set")
    assert [str(bad) for bad in source.report.bad] == ["row 7: no image in this row"]


def test_labels_that_are_no_classes(tmp_path):
    images = {"image": [Image.fromarray(np.full((8, 8), k, np.uint8)) for k in range(6)]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for k, (labels, names) in enumerate((([0, 1, None, 0, 1, 1], None), ([0, 1, 7, 0, 1, 1], ["cat", "dog"]))):
        rows = datasets.Dataset.from_dict(images | {"label": labels}, features=kinds)
        if names:
            rows.info.features["label"] = datasets.ClassLabel(names=names)
        rows.save_to_disk(tmp_path / f"{k}")
        assert len(load_images(tmp_path / f"{k}", labels="none")) == 6
        with pytest.raises(UserError, match=r"1 of 6 images in .* have no label \(row 2 is the first\)"):
            load_images(tmp_path / f"{k}", labels="auto")
    words = datasets.Dataset.from_dict(images | {"kind": list("aabbab")}).cast_column("image", datasets.Image())
    words.save_to_disk(tmp_path / "words")
    for prefix in ("hf:", "hf-stream:"):
        with pytest.raises(UserError, match=r"column kind of .* holds string: classes are whole numbers"):
            undye.pack(f"{prefix}{tmp_path / 'words'}?label=kind", tmp_path / "x.pack")


def test_names():
    assert parse_hub_name("hf:a/b") == HubName("a/b")
    assert parse_hub_name("hf:mnist:test") == HubName("mnist", "test")
    assert parse_hub_name("hf:a/b:x?image=i&label=l&config=c") == HubName("a/b", "x", "i", "l", "c")
    for wrong in ("hf:", "hf:a?b=c", "hf:a?x"):
        with pytest.raises(UserError, match="write hf:NAME"):
            parse_hub_name(wrong)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'undye\[hub\]'"):
        load_images("hf:mnist")


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match=r"cannot load .* with datasets") as error:
        load_images(f"hf:{tmp_path / 'set'}")
    assert "\n" not in str(error.value)
