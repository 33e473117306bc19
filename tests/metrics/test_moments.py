"""Moments do not depend on order, chunks or processes, and lose nothing to a far mean."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undye.errors import UserError
from undye.metrics.moments import Moments, MomentSums

X = np.random.default_rng(0).standard_normal((300, 7)) @ np.random.default_rng(1).standard_normal((7, 7)) + 5


def sums(x: np.ndarray) -> MomentSums:
    out = MomentSums()
    out.add(x)
    return out


@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 300), max_size=6))
def test_order_and_chunks_do_not_matter(random, cuts):
    order = list(range(300))
    random.shuffle(order)
    collected = MomentSums()
    for part in np.split(X[order], sorted(cuts)):
        collected.add(part)
    found = collected.moments()
    assert found.n == 300
    np.testing.assert_allclose(found.mean, X.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.cov, np.cov(X, rowvar=False), rtol=1e-12, atol=1e-13)


def test_processes_join_with_empty_ones_among_them():
    parts = [sums(X[:100]), MomentSums(), sums(X[100:101]), sums(X[101:])]
    joined = MomentSums.joined(pickle.loads(pickle.dumps(parts))).moments()
    np.testing.assert_allclose(joined.cov, Moments.of(X).cov, rtol=1e-12)
    assert parts[0].n == 100, "the parts stay as they were"
    np.testing.assert_allclose(parts[0].moments().cov, np.cov(X[:100], rowvar=False), rtol=1e-12)


def test_a_mean_far_from_0_cancels_nothing():
    near = Moments.of(X)
    far = Moments.of(X + 2.0**20)  # sums of squares without a shift would keep 4 digits
    np.testing.assert_allclose(far.cov, near.cov, rtol=1e-8)


def test_float32_features_are_summed_in_float64():
    x = X.astype(np.float32)
    np.testing.assert_allclose(Moments.of(x).cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12)


def test_rank_deficient_from_as_many_images_as_numbers():
    assert Moments.of(X[:7]).rank_deficient
    assert not Moments.of(X[:8]).rank_deficient


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (X[:1], "at least 2 images, got 1"),
        (X[:0], "at least 2 images, got 0"),
        (np.where(X > 10, np.nan, X), "NaN or infinite"),
        (np.where(X > 10, np.inf, X), "NaN or infinite"),
        (X[:, :0], "shape"),
    ],
)
def test_what_has_no_moments(features, says):
    with pytest.raises(UserError, match=says):
        Moments.of(features)


def test_features_of_two_networks_do_not_mix():
    collected = sums(X)
    with pytest.raises(UserError, match="use one network"):
        collected.add(X[:, :5])
