import gzip
import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from undye.data import NAMED_DATASETS, idx, load_images, mini, torchvision_sets
from undye.data.cache import dataset_cache
from undye.errors import UserError


def make_idx(folder, name, monkeypatch, zipped=True):
    """Small stand-ins of the four files, their checksums entered into the table."""
    folder.mkdir(parents=True)
    contents = {
        "train-images-idx3-ubyte": bytes(16) + bytes(range(196)) * 12,
        "train-labels-idx1-ubyte": bytes(8) + bytes([1, 0, 2]),
        "t10k-images-idx3-ubyte": bytes(16) + bytes(784),
        "t10k-labels-idx1-ubyte": bytes(8) + bytes([9]),
    }
    for file, content in contents.items():
        monkeypatch.setitem(idx._MD5[name], file, hashlib.md5(content).hexdigest())
        (folder / (f"{file}.gz" if zipped else file)).write_bytes(gzip.compress(content) if zipped else content)


DEBIAN = idx.SYSTEM / "fashion-mnist"


@pytest.fixture(autouse=True)
def no_system(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(torchvision_sets, "SYSTEM", tmp_path / "system")
    return tmp_path / "system"


def test_fashion_mini():
    for split, count in (("train", 1000), ("test", 200)):
        source = load_images("fashion-mini", split=split)
        assert source.describe() == f"fashion-mini {split}: {count * 10:,} images 28x28x1, 10 classes"
        labels = source.labels(np.arange(len(source)))
        assert np.bincount(labels).tolist() == [count] * 10
        assert source.class_names[9] == "Ankle boot"
        assert source.images(np.arange(100)).std() > 50
    assert load_images("fashion-mini", labels="none").class_names is None


def test_fashion_mini_is_small_and_licensed():
    folder = mini.resources.files("undye.data") / "embedded"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) <= 6_000_000
    text = (folder / "FASHION-MNIST-LICENSE.txt").read_text()
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in text
    assert "MIT" in text


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mini_is_the_start_of_each_class(no_system):
    no_system.mkdir()
    (no_system / "fashion-mnist").symlink_to(DEBIAN)
    full, small = load_images("fashion-mnist", split="test"), load_images("fashion-mini", split="test")
    labels, small_labels = full.labels(np.arange(10_000)), small.labels(np.arange(2_000))
    for k in range(10):
        of_class, small_of_class = np.flatnonzero(labels == k)[:200], np.flatnonzero(small_labels == k)
        assert np.array_equal(full.images(of_class), small.images(small_of_class))


def test_fashion_mini_damaged(monkeypatch):
    monkeypatch.setattr(mini, "_SHA256", "0" * 64)
    with pytest.raises(UserError, match="damaged: install"):
        load_images("fashion-mini")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("where", ["system", "cache", "torchvision"])
def test_idx_is_found(where, name, zipped, no_system, monkeypatch):
    folder = {
        "system": no_system / name,
        "cache": dataset_cache() / name,
        "torchvision": dataset_cache() / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw",
    }[where]
    make_idx(folder, name, monkeypatch, zipped)
    source = load_images(name)
    assert source.labels(np.arange(3)).tolist() == [1, 0, 2]
    assert source.images(np.array([2])).ravel().tolist() == [*range(196)] * 4
    assert source.num_classes == 10
    assert load_images(name, split="test").describe() == f"{name} test: 1 images 28x28x1, 10 classes"


def test_idx_is_checked(no_system, monkeypatch):
    make_idx(no_system / "fashion-mnist", "fashion-mnist", monkeypatch)
    file = no_system / "fashion-mnist/train-labels-idx1-ubyte.gz"
    content = file.read_bytes()
    file.write_bytes(gzip.compress(bytes(11)))
    with pytest.raises(UserError, match="wrong checksum"):
        load_images("fashion-mnist")
    file.write_bytes(content[:-4])
    with pytest.raises(UserError, match="cannot read"):
        load_images("fashion-mnist")


@pytest.mark.parametrize("name", sorted(set(NAMED_DATASETS) - {"fashion-mini"}))
@pytest.mark.parametrize("download", [True, False])
def test_without_network(name, download):
    with pytest.raises(UserError) as error:
        load_images(name, download=download)
    message = str(error.value)
    assert message.startswith("cannot download" if download else f"{name} is not ")
    assert NAMED_DATASETS[name].without_network in message
    assert "\n" not in message


def test_without_network_fashion_mnist_names_the_package():
    with pytest.raises(UserError, match=r"dataset-fashion-mnist.*fashion-mini"):
        load_images("fashion-mnist")


class Trap:
    def __reduce__(self):
        return pytest.fail, ("an unchecked pickle was opened",)


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("cifar10", "cifar-10-batches-py", [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]),
        ("cifar100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_an_unchecked_cifar_pickle_is_not_opened(name, folder, files):
    (dataset_cache() / folder).mkdir(parents=True)
    for file in files:
        (dataset_cache() / folder / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=name):
        load_images(name)


def make_cifar(root, which, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def put(file, content):
        blob = pickle.dumps(content)
        (folder / file).write_bytes(blob)
        return hashlib.md5(blob).hexdigest()

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    batch = {"data": pixels, "labels": [1, 0]}
    monkeypatch.setattr(which, "train_list", [["one", put("one", batch)]])
    monkeypatch.setattr(which, "test_list", [["two", put("two", batch)]])
    md5 = put("meta", {"label_names": ["plane", "car"]})
    monkeypatch.setattr(which, "meta", {"filename": "meta", "key": "label_names", "md5": md5})
    return pixels


def test_cifar_in_the_cache(monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels = make_cifar(dataset_cache(), CIFAR10, monkeypatch)
    source = load_images("cifar10")
    assert source.describe() == "cifar10 train: 2 images 32x32x3, 2 classes"
    assert source.class_names == ("plane", "car")
    assert source.labels(np.arange(2)).tolist() == [1, 0]
    assert np.array_equal(source.images(np.array([1]))[0].transpose(2, 0, 1).ravel(), pixels[1])


def test_svhn_without_scipy(monkeypatch):
    from torchvision import datasets

    def no_scipy(*_args, **_kwargs):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets, "SVHN", no_scipy)
    with pytest.raises(UserError, match="pip install scipy"):
        load_images("svhn")


def test_svhn_and_celeba_in_the_cache(save, monkeypatch):
    from torchvision import datasets

    class FakeSVHN:
        def __init__(self, root, split, download):
            self.data = np.zeros((2, 3, 32, 32), dtype=np.uint8)
            self.data[:, 0] = 200
            self.labels = np.array([3, 0])

    class FakeCelebA:
        def __init__(self, root, split, download):
            self.root, self.base_folder, self.filename = str(root), "celeba", ["2.jpg", "1.jpg"]

    monkeypatch.setattr(datasets, "SVHN", FakeSVHN)
    monkeypatch.setattr(datasets, "CelebA", FakeCelebA)
    source = load_images("svhn", split="test")
    assert source.describe() == "svhn test: 2 images 32x32x3, 10 classes"
    assert (source.images(np.array([0]))[..., 0] == 200).all()
    folder = dataset_cache() / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        save("face.jpg", size=(218, 178)).rename(folder / name)
    assert load_images("celeba").describe() == "celeba train: 2 images 218x178x3"


def test_a_name_wins_over_a_folder_unless_written_as_a_path(save, tmp_path, monkeypatch):
    save("fashion-mini/a.png")
    monkeypatch.chdir(tmp_path)
    assert len(load_images("fashion-mini")) == 10_000
    assert len(load_images("./fashion-mini")) == 1
    assert len(load_images(Path("fashion-mini"))) == 1


@pytest.mark.parametrize(("typo", "meant"), [("fashion_mnist", "fashion-mnist"), ("CIFAR10", "cifar10")])
def test_wrong_name(typo, meant):
    with pytest.raises(UserError, match=re.escape(f"did you mean {meant}?")) as error:
        load_images(typo)
    assert all(name in str(error.value) for name in NAMED_DATASETS)


def test_wrong_path(tmp_path):
    with pytest.raises(UserError, match=r"no data set, folder or file named .*nowhere"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no data set, folder or file named .*nowhere"):
        load_images(tmp_path / "nowhere", labels="folders")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"neither a folder of images nor a \.pack, \.zip"):
        load_images(tmp_path / "a.txt")


@pytest.mark.parametrize("data", ["fashion-mini", np.zeros((1, 4, 4), dtype=np.uint8)])
def test_folder_labels_are_for_folders(data):
    with pytest.raises(UserError, match="--labels folders is for a folder"):
        load_images(data, labels="folders")


def test_arguments():
    with pytest.raises(UserError, match="positive"):
        load_images("fashion-mini", image_size=(0, 4))
    with pytest.raises(UserError, match=r"28x28 is smaller than 32x32.*--upscale"):
        load_images("fashion-mini", image_size=(32, 32))


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDYE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert dataset_cache() == tmp_path / "own/datasets"
    monkeypatch.delenv("UNDYE_CACHE")
    assert dataset_cache() == tmp_path / "xdg/undye/datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset_cache() == tmp_path / ".cache/undye/datasets"
