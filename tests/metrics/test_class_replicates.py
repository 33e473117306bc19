"""The FID of each class and their mean: alarms that are rarely false, differences that are found, pairing."""

import numpy as np
import pytest

from undye.metrics.bootstrap import fid_replicates
from undye.metrics.class_replicates import class_replicates, mean_of
from undye.metrics.fid import per_class
from undye.metrics.intervals import Replicates, difference
from undye.metrics.moments import Moments
from undye.metrics.resampling import Resampling

D, CLASSES, EACH = 3, 3, 40
CENTRES = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0.0]])


def draw(rng: np.random.Generator, each: int = EACH, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Images of classes that go round, as a model draws them; the last class is off by `shift`."""
    labels = np.arange(CLASSES * each) % CLASSES
    x = CENTRES[labels] + rng.standard_normal((len(labels), D))
    x[labels == CLASSES - 1] += shift
    return x, labels


REFERENCE = draw(np.random.default_rng(9), 400)


def replicates(
    of: tuple[np.ndarray, np.ndarray], seed: int = 0, at: int = 0
) -> tuple[dict[int, Replicates], Replicates]:
    rows = per_class(*of, *REFERENCE)
    found = class_replicates(rows, *of, *REFERENCE, Resampling(100, seed, at))
    mean = mean_of(rows, found)
    assert mean is not None
    return found, mean


def test_equals_are_rarely_called_different_and_a_class_that_differs_is_found():
    rng = np.random.default_rng(1)
    classes, means, spoiled, means_spoiled = [], [], [], []
    for i in range(60):
        (a, mean_a), (b, mean_b) = (replicates(draw(rng), i, side) for side in (1, 2))
        bad, mean_bad = replicates(draw(rng, shift=1.0), i, 3)
        classes += [difference(a[k], b[k]).real for k in range(CLASSES)]
        means.append(difference(mean_a, mean_b).real)
        spoiled.append([difference(bad[k], a[k]).real for k in range(CLASSES)])
        means_spoiled.append(difference(mean_bad, mean_a).real)
    assert 0.005 <= np.mean(classes) <= 0.1
    assert np.mean(means) <= 0.12
    assert np.mean(spoiled, axis=0)[-1] > 0.9
    assert max(np.mean(spoiled, axis=0)[:-1]) <= 0.15
    assert np.mean(means_spoiled) > 0.9


def test_a_class_is_drawn_again_by_itself():
    """Always as many images as it has, whatever the others are; as `fid_replicates` does with its images alone."""
    x, labels = draw(np.random.default_rng(2))
    found, mean = replicates((x, labels))
    keep = np.concatenate([np.flatnonzero(labels == 1), np.flatnonzero(labels != 1)[:50]])
    again, _ = replicates((x[keep], labels[keep]))
    np.testing.assert_array_equal(again[1].values, found[1].values)
    weights = Resampling(100).weights(EACH, part=2)
    assert (weights.sum(1) == EACH).all()
    alone = fid_replicates(x[labels == 1], Moments.of(REFERENCE[0][REFERENCE[1] == 1]), weights)
    assert alone is not None
    np.testing.assert_array_equal(alone.values, found[1].values)
    np.testing.assert_allclose(mean.values, np.mean([found[k].values for k in range(CLASSES)], axis=0))
    assert mean.value == pytest.approx(np.mean([found[k].value for k in range(CLASSES)]))
    # independent classes: the mean's variance is that of the classes over their number
    spread = np.sqrt(sum(found[k].values.var() for k in range(CLASSES))) / CLASSES
    assert mean.values.std() == pytest.approx(spread, rel=0.25)


def test_what_both_have_in_common_cancels():
    x, labels = draw(np.random.default_rng(3))
    near = x + 0.02 * np.random.default_rng(4).standard_normal(x.shape)
    mean_a, mean_b = (replicates((each, labels))[1] for each in (x, near))
    _, apart = replicates((near, labels), at=1)
    assert difference(mean_a, mean_b).standard_error < 0.2 * difference(mean_a, apart).standard_error
    assert not difference(*(replicates((x, labels))[0][0] for _ in range(2))).real


def test_a_class_that_is_too_small_has_none():
    x, labels = draw(np.random.default_rng(5))
    keep = np.concatenate([np.flatnonzero(labels == 0)[:D], np.flatnonzero(labels == 1)])
    rows = per_class(x[keep], labels[keep], *REFERENCE)
    ticks = []
    found = class_replicates(
        rows, x[keep], labels[keep], *REFERENCE, Resampling(10), lambda *args: ticks.append(args)
    )  # fmt: skip
    assert list(found) == [1], "too few images for a covariance; and none at all"
    assert mean_of(rows, found) is None
    alone = mean_of(rows[1:], found)
    assert alone is not None
    np.testing.assert_array_equal(alone.values, found[1].values)
    assert ticks == [(1, 3), (2, 3), (3, 3)]
