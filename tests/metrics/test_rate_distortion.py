"""The rate at a given error: read from the curve as it should be, and compared between models image by image."""

import numpy as np
import pytest

from undye.metrics.bootstrap import resample_weights
from undye.metrics.intervals import difference
from undye.metrics.nll import bits_per_dim
from undye.metrics.rate_distortion import ImageCurves, RateDistortion, rates_at

from .test_nll import model, pixels


def curve(rate, rmse) -> RateDistortion:
    return RateDistortion(np.arange(len(rate))[::-1] + 1, np.array(rate, float), np.array(rmse, float))


def test_a_bit_halves_the_error_of_a_gaussian():
    """Between its points such a curve is met exactly."""
    bits = np.array([0.0, 0.7, 2.0, 4.5])
    found = curve(bits, 64 * 2.0**-bits)
    for at in (64, 40, 20, 10, 5, 64 * 2.0**-4.5):
        assert found.rate_at(at) == pytest.approx(np.log2(64 / at), abs=1e-12)
    assert found.rate_at(2) is None


def test_the_first_time_counts_and_what_is_there_at_once_costs_the_beginning():
    wavy = curve([0, 1, 2, 3, 4], [64, 8, 16, 8, 0])
    assert wavy.rate_at(16) == pytest.approx(2 / 3)
    assert wavy.rate_at(8) == 1
    assert curve([0.25, 1], [9, 8]).rate_at(10) == 0.25
    assert curve([0, 1], [10, 0]).rate_at(5) == pytest.approx(0, abs=0.01), "no logarithm of 0"
    many = rates_at(np.array([[0, 1.0], [0, 1.0]]), np.array([[8, 2.0], [8, 6.0]]), 4.0)
    assert many[0] == 0.5
    assert np.isnan(many[1])


def test_resamples_are_the_curves_of_images_drawn_again(monkeypatch):
    monkeypatch.setattr("undye.metrics.rate_distortion.IMAGES", 3)
    images, w = pixels(7), resample_weights(7, 12, 1)
    terms = bits_per_dim(model(), images)
    curves = terms.image_curves()
    rate, rmse = curves.resampled(w)
    for k in (0, 11):
        rows = np.repeat(np.arange(7), w[k])
        again = ImageCurves(terms.prior[rows], terms.per_step[rows], terms.x_0_mse[rows], curves.times).mean()
        np.testing.assert_allclose(rate[k], again.rate, rtol=1e-12)
        np.testing.assert_allclose(rmse[k], again.rmse, rtol=1e-12)
    mean = terms.rate_distortion()
    np.testing.assert_allclose(mean.rmse, 127.5 * np.sqrt(terms.x_0_mse[:, 20:0:-1]).mean(0), rtol=1e-12)
    assert mean.rate[-1] == pytest.approx((terms.prior + terms.rate).mean(), rel=1e-12)
    at = float(np.sqrt(mean.rmse[3] * mean.rmse[4]))
    found = curves.rate_replicates(w, [at, 1e-9])
    assert list(found) == [at], "none where the curve, or one of its resamples, does not come so far"
    assert found[at].value == mean.rate_at(at)
    values = rates_at(rate, rmse, at)
    np.testing.assert_allclose(found[at].values - found[at].value, values - values.mean(), atol=1e-12)


def curves(rng: np.random.Generator, hard: np.ndarray, dearer: float = 0.0) -> ImageCurves:
    """Of images that are hard or easy for every model alike, and a little for each by itself."""
    n, steps = len(hard), 12
    own = 1 + 0.05 * rng.standard_normal((n, steps + 1))
    per_step = 0.3 * (1 + dearer) * hard[:, None] * own
    per_step[:, :2] = 0
    rmse = 64 * hard[:, None] * 2.0 ** (np.arange(steps + 1) - steps) * (1 + 0.02 * rng.standard_normal(own.shape))
    return ImageCurves(np.zeros(n), per_step, (rmse / 127.5) ** 2, np.arange(steps, 0, -1))


def test_equals_are_rarely_called_different_and_a_small_difference_is_found():
    rng, w = np.random.default_rng(5), resample_weights(60, 100)
    real, found = [], []
    for _ in range(150):
        hard = rng.uniform(0.5, 1.5, 60)
        a, b, dear = (curves(rng, hard, k).rate_replicates(w, [10.0])[10.0] for k in (0, 0, 0.03))
        real.append(difference(a, b).real)
        found.append(difference(dear, a).real)
    assert 0.005 <= np.mean(real) <= 0.1
    assert np.mean(found) > 0.9
    alone = difference(curves(rng, hard, 0.03).rate_replicates(resample_weights(60, 100, 0, 1), [10.0])[10.0], a)
    assert alone.standard_error > 2 * difference(dear, a).standard_error, "what is hard for both cancels"
