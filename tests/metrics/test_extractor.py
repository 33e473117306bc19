"""Feature extractors of all kinds: the one that ships, files, modules, ONNX, Inception."""

import hashlib
import io
import json
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

import undye
from undye.errors import UserError
from undye.metrics import classifier_file, inception
from undye.metrics.extractor import FeatureExtractor, Features, default_extractor, help_for, load_extractor
from undye.metrics.extractor_names import EXTRACTORS
from undye.metrics.fid import frechet_distance
from undye.metrics.moments import Moments
from undye.metrics.program_features import ModuleExtractor

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def shipped() -> FeatureExtractor:
    return load_extractor("fashion-mnist", "cpu")


def pixels(n: int, size: int = 28, channels: int = 1) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def refused(match: str, *args: object, **settings: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_extractor(*args, **settings)
    assert "\n" not in str(caught.value)


# the one that ships


def test_the_shipped_classifier_is_what_the_docs_say(shipped: FeatureExtractor) -> None:
    blob = (resources.files("undye.metrics") / "embedded" / "fashion-mnist.safetensors").read_bytes()
    assert len(blob) <= 1_000_000
    assert shipped.hash == hashlib.sha256(blob).hexdigest()
    docs = Path(__file__).parents[2] / "docs" / "metrics.md"
    if docs.exists():
        text = docs.read_text(encoding="utf-8")
        assert shipped.hash in text
        assert f"{shipped.recipe()['trained']['test_accuracy']:.2%}".replace("%", " %") in text
    assert (shipped.dims, shipped.spatial_dims, shipped.num_classes) == (128, 112, 10)
    assert shipped.class_names == undye.load_images("fashion-mini").class_names
    assert shipped.cacheable


def test_its_accuracy_on_fashion_mini(shipped: FeatureExtractor) -> None:
    source = undye.load_images("fashion-mini", split="test")
    index = np.arange(1000)
    logits = shipped(source.images(index)).logits
    assert logits is not None
    assert (logits.argmax(1) == source.labels(index)).mean() > 0.91


def test_a_recipe_is_plain_data(shipped: FeatureExtractor) -> None:
    recipe = json.loads(json.dumps(shipped.recipe(), allow_nan=False))
    assert recipe["sha256"] == shipped.hash
    assert recipe["resize"] == "none"
    assert recipe["trained"]["data"] == "fashion-mnist"
    assert recipe["trained"]["test_images"] == 10_000


def test_features_do_not_depend_on_batch_or_order(shipped: FeatureExtractor) -> None:
    images = undye.load_images("fashion-mini", split="test").images(np.arange(67))
    whole = shipped(images)
    assert (whole.pooled.shape, whole.pooled.dtype) == ((67, 128), np.float32)
    order = RNG.permutation(67)
    for other in (shipped(images, 1), shipped(images, 20)):
        for name in ("pooled", "spatial", "logits"):
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shipped(images[order]).pooled, whole.pooled[order], rtol=1e-5, atol=1e-5)


def test_no_images_are_no_features(shipped: FeatureExtractor) -> None:
    found = shipped(pixels(0))
    assert found.pooled.shape == (0, 128)
    assert found.logits is not None
    assert found.logits.shape == (0, 10)
    assert len(Features.joined([found, shipped(pixels(3))])) == 3


def test_features_have_a_full_covariance_and_feel_blur_and_noise(shipped: FeatureExtractor) -> None:
    images = undye.load_images("fashion-mini", split="test").images(np.arange(2000))
    real, unseen = shipped(images[:1000]).pooled, shipped(images[1000:]).pooled
    for array in (real, shipped(images[:1000]).spatial):
        assert array is not None
        assert np.linalg.matrix_rank(np.cov(array.astype(np.float64).T)) == array.shape[1]
    # three pixels across, three down
    x = np.pad(images[1000:].astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(x[:, i : i + 28, j : j + 28] for i in range(3) for j in range(3)) / 9
    noisy = images[1000:] + RNG.normal(0, 16, (1000, 28, 28, 1))
    reference = Moments.of(real)
    floor = frechet_distance(Moments.of(unseen), reference)
    for changed in (blurred, noisy):
        found = shipped(changed.round().clip(0, 255).astype(np.uint8)).pooled
        assert frechet_distance(Moments.of(found), reference) > 2 * floor


def test_images_that_do_not_fit(shipped: FeatureExtractor) -> None:
    for size, channels, match in (((28, 28), 3, "--channels 1"), ((32, 32), 1, "--image-size 28x28")):
        with pytest.raises(UserError, match=match) as caught:
            shipped.check(size, channels)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="greyscale"):
        shipped(pixels(2, channels=3))
    with pytest.raises(UserError, match="batch size"):
        shipped(pixels(2), 0)


def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(classifier_file.EMBEDDED, "fashion-mnist", "0" * 64)
    refused("install undye again", "fashion-mnist")


# names


def test_which_extractor_fits_by_default() -> None:
    for name in ("fashion-mnist", "fashion-mini", "fashion-mini test"):
        assert default_extractor(name) == "fashion-mnist"
    for name in ("mnist", "", "./fashion-mnist", "photos"):
        assert default_extractor(name) is None
    assert "undye features --data photos" in help_for("photos")
    assert set(EXTRACTORS) == {*classifier_file.EMBEDDED, "inception"}


def test_what_is_no_extractor(tmp_path: Path) -> None:
    refused("no features called nonsense", "nonsense")
    refused("no file of features", tmp_path / "a.safetensors")
    refused("cannot read", tmp_path / "a.onnx")
    refused("unpickles.*ONNX", tmp_path / "a.pt2")
    refused("weights without a network.*inception:", tmp_path / "a.pth")
    refused("unknown device", "fashion-mnist", "abacus")


# modules


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(1, 6, 3), nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.conv(x).relu()
        pooled = self.drop(h.mean(dim=(2, 3)))
        return {"features": pooled, "logits": self.head(pooled), "spatial": h[:, :2, :3, :3]}


def test_a_module() -> None:
    module = Tiny().train()
    extractor = load_extractor(module)
    assert isinstance(extractor, ModuleExtractor)
    assert (extractor.name, extractor.channels, extractor.image_size) == ("Tiny", 1, None)
    assert (extractor.dims, extractor.spatial_dims, extractor.num_classes) == (6, 18, 4)
    assert not extractor.cacheable
    images = pixels(70, 20)
    found = extractor(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = module.conv(x).relu().mean(dim=(2, 3))  # no dropout
    np.testing.assert_allclose(found.pooled, expected.detach(), rtol=1e-5, atol=1e-6)
    assert module.training
    assert module.drop.training
    assert load_extractor(extractor) is extractor
    json.dumps(extractor.recipe())


def test_a_modules_hash_knows_weights_and_code() -> None:
    module = Tiny()
    before = load_extractor(module).hash
    assert load_extractor(module).hash == before
    with torch.no_grad():
        module.conv.bias[0] += 1
    assert load_extractor(module).hash != before
    assert load_extractor(nn.Sequential(nn.Flatten(), nn.Identity())).hash != load_extractor(nn.Flatten()).hash


def test_a_modules_own_words_on_what_it_takes() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 7, 5))
    refused("set `image_size` and `channels`", module)
    module.image_size, module.channels = (9, 7), 3  # pyrefly: ignore
    extractor = load_extractor(module)
    assert (extractor.image_size, extractor.channels, extractor.dims) == ((9, 7), 3, 5)
    with pytest.raises(UserError, match="--image-size 9x7"):
        extractor.check((28, 28), 3)


def test_modules_that_do_not_give_features() -> None:
    refused(r"must be \(N, D\)", nn.Conv2d(1, 4, 3))

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.flatten(1)]

    refused("a tensor, or a dict", Pair())


def test_features_that_are_not_finite() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :3].log()

    with pytest.raises(UserError, match="not finite"):
        load_extractor(Broken())(pixels(2))


# ONNX


def export(module: nn.Module, path: Path, x: torch.Tensor, names: list[str], free: tuple[int, ...]) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    axes = {"x": {axis: f"d{axis}" for axis in free}} | {name: {0: "d0"} for name in names if 0 in free}
    torch.onnx.export(
        module.eval(), (x,), path, input_names=["x"], output_names=names, dynamic_axes=axes, dynamo=False
    )  # fmt: skip
    return path


class Tuple(nn.Module):
    def __init__(self, inner: Tiny):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.inner(x)
        return found["logits"], found["features"], found["spatial"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("free", [(0, 2, 3), (0,), ()])
def test_an_onnx_file_is_the_module_it_was_made_of(tmp_path: Path, free: tuple[int, ...]) -> None:
    module = Tiny()
    names = ["logits", "features", "spatial"]
    path = export(Tuple(module), tmp_path / "a.onnx", torch.randn(4, 1, 16, 16), names, free)
    extractor, original = load_extractor(path), load_extractor(module)
    assert extractor.image_size == (None if 2 in free else (16, 16))
    assert (extractor.channels, extractor.dims, extractor.spatial_dims, extractor.num_classes) == (1, 6, 18, 4)
    assert extractor.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.cacheable
    images = pixels(11, 16)
    found, expected = extractor(images), original(images)
    for name in ("pooled", "spatial", "logits"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(extractor(images, 3).pooled, found.pooled, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="greyscale"):
        extractor.check((16, 16), 3)


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_of_pixels_with_one_unnamed_output(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(dim=(2, 3))

    path = export(Mean(), tmp_path / "a.onnx", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["whatever"], (0, 2, 3))
    images = pixels(5, 9, 3)
    np.testing.assert_allclose(load_extractor(path)(images).pooled, images.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = export(Tuple(Tiny()), tmp_path / "a.onnx", torch.randn(1, 1, 16, 16), ["a", "b", "c"], (0,))
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:300])
    refused("damaged, or no ONNX program", tmp_path / "cut.onnx")
    vectors = export(nn.Linear(3, 2), tmp_path / "v.onnx", torch.randn(1, 3), ["features"], (0,))
    refused("one input.*images", vectors)
    maps = export(nn.Conv2d(1, 2, 3), tmp_path / "m.onnx", torch.randn(1, 1, 8, 8), ["features"], (0,))
    refused("with pooling done", maps)
    import onnx

    program = onnx.load(path)
    onnx.save(program, tmp_path / "two.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    refused("keeps its weights in another file", tmp_path / "two.onnx")


# Inception. Its published weights are not on the test machine: these are random.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = io.BytesIO()

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep what is there."""

    torch.save({}, own)
    own.seek(0)
    network = Random("a", ["2048"], feature_extractor_weights_path=own)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(weights: Path, tmp_path: Path) -> None:
    extractor = load_extractor(f"inception:{weights}", "cpu")
    assert (extractor.dims, extractor.spatial_dims, extractor.num_classes) == (2048, 2023, 1008)
    assert extractor.hash == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.recipe()["published_weights"] is False
    assert "299x299" in extractor.recipe()["resize"]
    images = pixels(3, 20, 3)
    found = extractor(images, 2)
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    spatial = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda _m, _i, out: spatial.append(out[:, :7].flatten(1)))
    pooled, logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    for ours, expected in ((found.pooled, pooled), (found.logits, logits), (found.spatial, spatial[0])):
        assert ours is not None
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    grey = images[:1, :, :, :1]
    np.testing.assert_array_equal(extractor(grey).pooled, extractor(grey.repeat(3, axis=3)).pooled)


def test_inception_of_a_wrong_or_hostile_file(weights: Path, tmp_path: Path) -> None:
    refused("no file .*fetch https.*6726825d", f"inception:{tmp_path / 'none.pth'}")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:100_000])
    refused("damaged", f"inception:{cut}")
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(2)}, other)
    refused("does not hold the weights.*fetch https", f"inception:{other}")

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, other)
    refused("more than tensors", f"inception:{other}")
    assert not (tmp_path / "ran").exists()


def test_inception_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    refused(f"cannot be downloaded .Temporary failure.*{inception.FILE}.*--features inception:", "inception")
    folder = tmp_path / "checkpoints"
    assert list(folder.iterdir()) == []
    (folder / inception.FILE).write_bytes(b"half")
    refused("damaged.*remove it", "inception")


def test_a_download_of_other_bytes_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served").write_bytes(b"<html>blocked</html>")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL", (tmp_path / "served").as_uri())
    refused("cannot be downloaded .invalid hash", "inception")
    assert list((tmp_path / "checkpoints").iterdir()) == []
