"""Features on disk: kept by the images' bytes, checked, never those of something else."""

import shutil

import numpy as np
import pytest

import undye
from undye.data import load_images
from undye.metrics.feature_files import content_hash, features_of

from .features import Projections


def source(seed=0, n=30):
    return load_images(np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 1), dtype=np.uint8), channels=1)


def test_features_are_computed_once(tmp_path):
    extractor, images = Projections(), source()
    first = features_of(images, extractor, tmp_path)
    direct = Projections()(images.images(np.arange(30)))
    np.testing.assert_array_equal(first.pooled, direct.pooled)
    np.testing.assert_array_equal(first.spatial, direct.spatial)
    np.testing.assert_array_equal(first.logits, direct.logits)
    assert (first.kept, first.damaged, extractor.calls, first.content) == (False, False, 30, content_hash(images))
    again = features_of(source(), extractor, tmp_path)  # other object, same pixels
    assert (again.kept, extractor.calls) == (True, 30)
    np.testing.assert_array_equal(again.pooled, first.pooled)


def test_other_pixels_or_another_extractor_are_other_features(tmp_path):
    extractor = Projections()
    for what, how in (
        (source(0), extractor),
        (source(1), extractor),
        (source(0, 29), extractor),
        (source(0), Projections(1)),
    ):
        assert not features_of(what, how, tmp_path).kept
    turned = source(0).images(np.arange(30)).reshape(30, 5, 6, 1)
    assert content_hash(load_images(turned, channels=1)) != content_hash(source(0)), "the shape counts"


@pytest.mark.parametrize("name", ["pooled.npy", "logits.npy", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_computed_again(tmp_path, name, how):
    first = features_of(source(), Projections(), tmp_path)
    good = np.array(first.pooled)
    (path,) = tmp_path.rglob(name)
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content if how == "flip" else content[:-9])
    again = features_of(source(), Projections(), tmp_path)
    assert (again.kept, again.damaged) == (False, True)
    np.testing.assert_array_equal(again.pooled, good)
    assert features_of(source(), Projections(), tmp_path).kept


def test_images_that_do_not_fit(tmp_path):
    extractor = Projections()
    extractor.channels = 3
    with pytest.raises(undye.UserError, match="colour"):
        features_of(source(), extractor, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path):
    class Broken(Projections):
        def features(self, images):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        features_of(source(), Broken(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_evaluation_that_was_a_moment_quicker(tmp_path):
    """Both found no features and computed them: the second takes those of the first."""
    good = features_of(source(), Projections(), tmp_path / "first")
    (place,) = (tmp_path / "first").iterdir()

    class Slower(Projections):
        def features(self, images):
            shutil.copytree(place, tmp_path / "here" / place.name, dirs_exist_ok=True)
            return super().features(images)

    found = features_of(source(), Slower(), tmp_path / "here")
    np.testing.assert_array_equal(found.pooled, good.pooled)
    assert [p.name for p in (tmp_path / "here").iterdir()] == [place.name], "no temporary is left"


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(undye.UserError, match="set UNDYE_CACHE"):
        features_of(source(), Projections(), tmp_path / "file" / "features")
