"""The small classifier: what it computes, its training, its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import undye
from undye.data.source import ArraySource
from undye.errors import UserError
from undye.metrics import classifier_file, train_classifier
from undye.metrics.classifier import Classifier, ClassifierConfig
from undye.metrics.classifier_file import load_classifier, save_classifier

CPU = torch.device("cpu")


def striped(n: int, size: int = 12, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes: bright on the left, or nowhere; with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.integers(0, 60, (n, size, size, channels), dtype=np.uint8)
    images[labels == 1, :, : size // 2] += 150
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = striped(200)
    path = tmp_path_factory.mktemp("data") / "striped.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def made(data: Path) -> Path:
    undye.train_features(data, data.with_name("f.safetensors"), epochs=3, device="cpu")
    return data.with_name("f.safetensors")


def network(**changes: object) -> Classifier:
    config = ClassifierConfig(**{"image_size": (28, 28), "channels": 1, "num_classes": 3, **changes})
    return train_classifier._initial(config, 0)


@pytest.mark.parametrize(
    ("size", "halvings", "seen"),
    [((28, 28), 0, (28, 28)), ((48, 30), 0, (48, 30)), ((8, 11), 0, (8, 11)), ((64, 64), 1, (64, 64)),
     ((128, 96), 2, (128, 96)), ((256, 256), 3, (256, 256)), ((512, 300), 3, (256, 150))],
)  # fmt: skip
def test_it_takes_every_size(size: tuple[int, int], halvings: int, seen: tuple[int, int]) -> None:
    config = ClassifierConfig(image_size=size, channels=3, num_classes=5)
    assert (config.halvings, config.input_size) == (halvings, seen)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    x = classifier_file.network_input(images, config, CPU)
    pooled, spatial, logits = train_classifier._initial(config, 0).fused()(x)
    assert x.shape == (2, 3, *seen)
    assert (pooled.shape, spatial.shape, logits.shape) == ((2, 128), (2, 112), (2, 5))


def test_a_large_image_is_shrunk_by_the_stated_rule() -> None:
    config = ClassifierConfig(image_size=(512, 512), channels=1, num_classes=2)
    checkers = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (256, 256))[None, :, :, None]
    x = classifier_file.network_input(checkers, config, CPU)
    assert x[..., 8:-8, 8:-8].abs().max() < 1e-5  # antialiased: grey, neither black nor white


def test_fused_is_the_same_function() -> None:
    model = network()
    x = torch.randn(16, 1, 28, 28)
    for _ in range(3):
        model(x)  # statistics that are not the initial ones
    fused = model.fused()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
    for one, other in zip(model.eval()(x), fused(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_config_that_cannot_be_is_refused() -> None:
    for wrong in ({"channels": 2}, {"num_classes": 1}, {"image_size": (4, 28)}, {"width": 8}):
        with pytest.raises(UserError):
            ClassifierConfig(**{"image_size": (28, 28), "channels": 1, "num_classes": 3, **wrong})


def test_it_learns_and_its_accuracy_is_of_unseen_images(data: Path, made: Path) -> None:
    extractor = load_classifier(made, CPU)
    trained = extractor.trained
    assert trained["test_accuracy"] == 1.0
    assert trained["tested_on"] == "20 images held out by the seed"
    assert (trained["images"], trained["test_images"], trained["epochs"]) == (180, 20, 3)
    images, labels = striped(100, seed=9)
    logits = extractor(images).logits
    assert logits is not None
    assert (logits.argmax(1) == labels).all()


def test_labels_without_meaning_are_not_learned(tmp_path: Path) -> None:
    images, _ = striped(300)
    labels = np.random.default_rng(1).integers(0, 2, 300)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    extractor = undye.train_features(tmp_path / "a.npz", tmp_path / "f.safetensors", epochs=3, device="cpu")
    assert extractor.trained["test_accuracy"] < 0.85


def test_the_same_command_makes_the_same_file(data: Path, made: Path, tmp_path: Path) -> None:
    undye.train_features(data, tmp_path / "again.safetensors", epochs=3, device="cpu")
    assert (tmp_path / "again.safetensors").read_bytes() == made.read_bytes()
    undye.train_features(data, tmp_path / "other.safetensors", epochs=3, seed=1, device="cpu")
    assert (tmp_path / "other.safetensors").read_bytes() != made.read_bytes()


def test_training_touches_no_global_random_state(data: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    undye.train_features(data, tmp_path / "f.safetensors", epochs=1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_test_split_is_what_is_measured(tmp_path: Path) -> None:
    from PIL import Image

    for split, n in (("train", 24), ("test", 10)):
        images, labels = striped(n, seed=n)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "set" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    out = tmp_path / "f.safetensors"
    extractor = undye.train_features(tmp_path / "set", out, labels="folders", epochs=2, device="cpu")
    assert extractor.class_names == ("class0", "class1")
    assert extractor.trained["images"] == 24
    assert extractor.trained["test_images"] == 10
    assert "held out" not in extractor.trained["tested_on"]


def test_shifts_stay_within_a_14th_and_repeat_the_edge() -> None:
    x = torch.arange(28.0).expand(50, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    moved = train_classifier._shifted(x, np.random.default_rng(0))
    difference = (moved - x)[:, 0, 14, 14]
    assert set(difference.tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert moved.min() == 0
    assert moved.max() == 27
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_the_learning_rate_goes_up_and_down() -> None:
    rates = [train_classifier.one_cycle(k / 100) for k in range(101)]
    assert max(rates) == pytest.approx(1)
    assert rates[0] == pytest.approx(1 / 6)
    assert rates[-1] == 0
    assert rates.index(max(rates)) == 20


def test_progress_counts_all_images(data: Path, tmp_path: Path) -> None:
    seen = []
    undye.train_features(
        data, tmp_path / "f.safetensors", epochs=2, device="cpu", progress=lambda *done: seen.append(done)
    )
    assert seen[-1][0] == seen[-1][1] == 2 * (180 // 16) * 16
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def fails(match: str, *args: object, **settings: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        undye.train_features(*args, device="cpu", **settings)
    assert "\n" not in str(caught.value)


def test_unusable_data_and_settings(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    images, _ = striped(10)
    np.savez(tmp_path / "unlabelled.npz", images=images)
    fails("--labels folders.*inception", tmp_path / "unlabelled.npz", out)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(10, np.int64))
    fails("one class only", tmp_path / "one.npz", out)
    np.savez(tmp_path / "few.npz", images=images[:2], labels=np.arange(2))
    fails("too few", tmp_path / "few.npz", out)
    fails("epochs must be at least 1", data, out, epochs=0)
    fails("seed must be at least 0", data, out, seed=-1)
    fails("should end in .safetensors", data, tmp_path / "f.pth")
    (tmp_path / "there.safetensors").touch()
    fails("exists already", data, tmp_path / "there.safetensors")
    assert not out.exists()


def test_divergence_is_said(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_classifier, "LEARNING_RATE", 1e30)
    fails("diverged", data, tmp_path / "f.safetensors", epochs=3)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_half_written(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _blob: bytes) -> None:
        path.open("wb").write(b"half")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            undye.train_features(data, tmp_path / "f.safetensors", epochs=1, device="cpu")
    assert list(tmp_path.iterdir()) == []

    def stop(done: int, _total: int) -> None:
        if done > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        undye.train_features(data, tmp_path / "f.safetensors", epochs=3, device="cpu", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(made: Path, tmp_path: Path) -> None:
    blob, path = made.read_bytes(), tmp_path / "f.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            load_classifier(path, CPU)
        assert "\n" not in str(caught.value)

    refused("no file of features")
    for part in (blob[: len(blob) // 2], blob[:4], b""):
        path.write_bytes(part)
        refused("damaged or cut off")
    flipped = bytearray(blob)
    flipped[-1000] ^= 1
    path.write_bytes(flipped)
    refused("not those that were written")
    path.unlink()
    path.mkdir()
    refused("cannot read")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "f.safetensors"
    for about in (None, {"undye": "[1]"}, {"undye": json.dumps({"kind": "model"})}):
        save_file({"a": torch.zeros(2)}, path, about)
        with pytest.raises(UserError, match="holds no features"):
            load_classifier(path, CPU)
    tensors, about = {"a": torch.zeros(2)}, {"kind": "classifier", "schema_version": 2}
    save_file(tensors, path, {"undye": json.dumps(about)})
    with pytest.raises(UserError, match="newer undye"):
        load_classifier(path, CPU)
    config = {"image_size": [28, 28], "channels": 1, "num_classes": 2}
    about = {"kind": "classifier", "schema_version": 1, "config": config, "class_names": ["a", "b"], "trained": {},
             "weights_sha256": classifier_file._digest(tensors)}  # fmt: skip
    save_file(tensors, path, {"undye": json.dumps(about)})
    with pytest.raises(UserError, match="does not hold the weights"):
        load_classifier(path, CPU)


def test_weights_beyond_float16_are_not_written(tmp_path: Path) -> None:
    model = network().fused()
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    with pytest.raises(UserError, match="not finite"):
        save_classifier(tmp_path / "f.safetensors", model, ("a", "b", "c"), {})
    assert list(tmp_path.iterdir()) == []


def test_accuracy_counts() -> None:
    images, labels = striped(20)
    source = ArraySource("a", images, labels.astype(np.int64), ("dark", "bright"))
    model = Classifier.empty(ClassifierConfig(image_size=(12, 12), channels=1, num_classes=2))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0]))
    assert train_classifier.accuracy(model, source, CPU) == 0.5
