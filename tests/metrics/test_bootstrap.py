"""Intervals cover what they claim to; differences are called real where they are."""

import numpy as np
import pytest

from undye.errors import UserError
from undye.metrics import bootstrap as module
from undye.metrics.bootstrap import (
    fid_replicates,
    inception_score_replicates,
    kid_replicates,
    prdc_replicates,
    resample_weights,
)
from undye.metrics.fid import frechet_distance
from undye.metrics.inception_score import inception_score
from undye.metrics.intervals import Replicates, difference
from undye.metrics.kid import kid
from undye.metrics.moments import Moments
from undye.metrics.prdc import prdc

D, N = 8, 300
VARIANCES = 1 / np.arange(1.0, D + 1)
REFERENCE = Moments(10**9, np.zeros(D), np.diag(VARIANCES))


def draw(rng: np.random.Generator, shift: float = 0.15, scale: float = 1.2, n: int = N) -> np.ndarray:
    return shift + rng.standard_normal((n, D)) * np.sqrt(scale * VARIANCES)


def truth(shift: float = 0.15, scale: float = 1.2) -> float:
    return frechet_distance(Moments(10**9, np.full(D, shift), np.diag(scale * VARIANCES)), REFERENCE)


def replicates(x: np.ndarray, seed: int, n: int = 200) -> Replicates:
    found = fid_replicates(x, REFERENCE, resample_weights(len(x), n, seed))
    assert found is not None
    return found


def test_weights_are_resamples():
    w = resample_weights(50, 400, seed=3)
    assert w.shape == (400, 50)
    assert (w.sum(1) == 50).all()
    assert (w == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)
    assert np.array_equal(w[:10], resample_weights(50, 10, seed=3)), "a resample does not depend on their number"
    assert not np.array_equal(w, resample_weights(50, 400, seed=4))
    assert not np.array_equal(w, resample_weights(50, 400, seed=3, draw=1))
    with pytest.raises(UserError, match="at least 2 images and 2 resamples"):
        resample_weights(50, 1)


@pytest.mark.parametrize("resampled", [True, False], ids=["computed again", "expanded"])
def test_coverage_of_the_frechet_distance(monkeypatch, resampled):
    """Of the mean distance at n, and of the true one; also where the sets are alike."""
    monkeypatch.setattr(module, "RESAMPLED_DIMS", D if resampled else D - 1)
    rng, repeats = np.random.default_rng(0), 120
    for shift, scale in ((0.15, 1.2), (0.0, 1.0)):
        found = [replicates(draw(rng, shift, scale), i, 100) for i in range(repeats)]
        values, intervals = np.array([f.value for f in found]), [f.interval() for f in found]
        mean, limit = values.mean(), truth(shift, scale)
        assert mean - limit > 5 * values.std() / np.sqrt(repeats), "a bias to be taken out"
        covered = [i.low <= mean <= i.high for i in intervals]
        unbiased = [i.unbiased(v) for i, v in zip(intervals, values, strict=True)]
        limit_covered = [low <= limit <= high for _, low, high in unbiased]
        # 120 draws of 95 %: 0.02 of standard error; percentiles of 100 resamples are a little too short
        assert 0.87 < np.mean(covered) <= 1
        assert 0.87 < np.mean(limit_covered) <= 1
        errors = np.array([i.standard_error for i in intervals])
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.35 if shift == 0 else 0.2)
        assert np.mean([u[0] for u in unbiased]) == pytest.approx(limit, abs=0.15 * (mean - limit))


def test_resamples_and_expansion_agree(monkeypatch):
    x = draw(np.random.default_rng(1), n=1000)
    exact = replicates(x, 0, 300)
    monkeypatch.setattr(module, "RESAMPLED_DIMS", 0)
    expanded = replicates(x, 0, 300)
    assert exact.value == pytest.approx(expanded.value, rel=1e-12)
    assert exact.bias == pytest.approx(expanded.bias, rel=0.1)
    assert np.corrcoef(exact.values, expanded.values)[0, 1] > 0.9, "they follow the same weights"


def test_a_resample_is_the_distance_of_the_images_drawn():
    x = draw(np.random.default_rng(2))
    w = resample_weights(N, 20, 5)
    expected = [frechet_distance(Moments.of(np.repeat(x, row, axis=0)), REFERENCE) for row in w]
    found = replicates(x, 5, 20)
    assert np.corrcoef(found.values, expected)[0, 1] > 0.99
    np.testing.assert_allclose(found.values, expected, rtol=0.1)


def test_no_interval_of_a_singular_covariance():
    assert fid_replicates(draw(np.random.default_rng(0), n=D), REFERENCE, resample_weights(D, 5)) is None


@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["alike", "apart"])
def test_coverage_of_the_kernel_distance(shift):
    rng, n, repeats = np.random.default_rng(3), 60, 100
    reference = rng.standard_normal((100, 4))
    found = []
    for i in range(repeats):
        x = rng.standard_normal((n, 4)) + shift
        found.append(kid_replicates(x, reference, resample_weights(n, 100, i)))
    assert found[-1].value == pytest.approx(kid(x, reference).value, rel=1e-10)
    assert found[-1].interval().standard_error == pytest.approx(kid(x, reference).standard_error, rel=0.3)
    values, intervals = np.array([f.value for f in found]), [f.interval() for f in found]
    assert 0.85 < np.mean([i.low <= values.mean() <= i.high for i in intervals]) <= 1
    errors = np.array([i.standard_error for i in intervals])
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.3)
    assert abs(np.mean([i.bias for i in intervals])) < 0.2 * values.std(), "it is unbiased, and so are its resamples"


def test_a_resample_of_the_kernel_distance_leaves_pairs_of_an_image_with_itself_out(monkeypatch):
    monkeypatch.setattr(module, "combined", lambda value, first, rest: Replicates(value, value + first + rest))
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((9, 3))
    w = resample_weights(12, 6, 1)
    k = lambda a, b: (a @ b.T / 3 + 1) ** 3  # noqa: E731
    found = kid_replicates(x, y, w)
    raw = []
    for row in w.astype(float):
        pairs = np.outer(row, row) * (1 - np.eye(12))
        y_own = (k(y, y).sum() - np.trace(k(y, y))) / (9 * 8)
        raw.append((pairs * k(x, x)).sum() / pairs.sum() + y_own - 2 * (row @ k(x, y)).sum() / (12 * 9))
    np.testing.assert_allclose(found.values, raw, rtol=1e-10)


def test_coverage_of_the_inception_score():
    rng, repeats = np.random.default_rng(5), 100

    def logits(n: int) -> np.ndarray:
        return 2 * rng.standard_normal((n, 6)) * np.arange(1, 7)

    expected = np.mean([inception_score(logits(N), 2).value for _ in range(400)])
    found = [inception_score_replicates(logits(N), resample_weights(N, 100, i), 2) for i in range(repeats)]
    intervals = [f.interval() for f in found]
    assert 0.88 < np.mean([i.low <= expected <= i.high for i in intervals]) <= 1
    x = logits(N)
    f = inception_score_replicates(x, np.ones((2, N), dtype=int), 3, seed=7)
    np.testing.assert_allclose(f.values, inception_score(x, 3, seed=7).value, rtol=1e-12)
    assert np.isfinite(inception_score_replicates(x[:12], resample_weights(12, 50), 12).values).all()


def test_coverage_of_precision_and_recall():
    """Over other samples, the reference as it is; however large that is."""
    rng, n, repeats = np.random.default_rng(6), 150, 50
    reference, found = rng.standard_normal((600, 3)), []
    for i in range(repeats):
        result = prdc(0.8 * rng.standard_normal((n, 3)) + 0.5, reference)
        found.append(prdc_replicates(result, resample_weights(n, 100, i)))
    for name in ("precision", "recall", "density", "coverage"):
        values = np.array([f[name].value for f in found])
        intervals = [f[name].interval() for f in found]
        assert 0.83 < np.mean([i.low <= values.mean() <= i.high for i in intervals]) <= 1, name
        error = np.mean([i.standard_error for i in intervals])
        assert 0.75 < error / values.std() < 2, f"{name}: the jackknife errs on the large side"


def test_prdc_replicates_are_of_the_result():
    rng = np.random.default_rng(7)
    result = prdc(rng.standard_normal((50, 3)), rng.standard_normal((40, 3)))
    found = prdc_replicates(result, resample_weights(50, 2000))
    assert {k: v.value for k, v in found.items()} == {
        "precision": result.precision, "recall": result.recall, "density": result.density, "coverage": result.coverage
    }  # fmt: skip
    p, losses = result.precision, result.coverage_losses
    for name, error in (("precision", np.sqrt(p * (1 - p) / 50)), ("coverage", 49 * losses.std() / np.sqrt(50))):
        assert found[name].interval().standard_error == pytest.approx(error, rel=0.1)
        assert abs(found[name].bias) < 0.01


def test_a_difference_that_is_not_there_is_seldom_called_real():
    rng, repeats, real = np.random.default_rng(8), 100, 0
    for i in range(repeats):
        a, b = (fid_replicates(draw(rng), REFERENCE, resample_weights(N, 200, i, draw=side)) for side in range(2))
        assert a is not None
        assert b is not None
        real += difference(a, b).real
    assert real <= 0.14 * repeats, "5 % is claimed, with a standard error of 2 %; over 600 repeats it was 6 %"


def test_different_sizes_differ_by_their_bias_alone_and_are_not_called_different():
    """A small set lies farther away: that is not the model's fault."""
    rng, calls, plain, fair = np.random.default_rng(9), 0, [], []
    for i in range(40):
        a = fid_replicates(draw(rng, n=100), REFERENCE, resample_weights(100, 100, i))
        b = fid_replicates(draw(rng, n=1000), REFERENCE, resample_weights(1000, 100, i, draw=1))
        assert a is not None
        assert b is not None
        found = difference(a, b)
        calls += found.real
        plain.append(a.value - b.value)
        fair.append(found.value)
    assert calls <= 6
    error = np.std(plain) / np.sqrt(40)
    assert np.mean(plain) > 4 * error, "the plain numbers differ"
    assert abs(np.mean(fair)) < 2.5 * error


def test_pairs_see_what_chance_hides():
    """A set and the same set a little worse: the common noise cancels."""
    x = draw(np.random.default_rng(10))
    y = x * 1.02 + 0.01
    paired = difference(replicates(y, 0), replicates(x, 0))
    w = resample_weights(N, 200, 0, draw=1)
    other = fid_replicates(x, REFERENCE, w)
    assert other is not None
    unpaired = difference(replicates(y, 0), other)
    assert paired.real
    assert paired.p_value < 0.02
    assert not unpaired.real
    assert unpaired.p_value > 0.05
    assert paired.value == pytest.approx(unpaired.value, abs=0.02)
    assert paired.standard_error < 0.3 * unpaired.standard_error
    assert paired.low < paired.value < paired.high
    swapped = difference(replicates(x, 0), replicates(y, 0))
    assert swapped.value == -paired.value


def test_a_set_does_not_differ_from_itself(monkeypatch):
    x = draw(np.random.default_rng(11))
    for dims in (D, 0):
        monkeypatch.setattr(module, "RESAMPLED_DIMS", dims)
        found = difference(replicates(x, 0), replicates(x, 0))
        assert (found.value, found.low, found.high, found.real, found.p_value) == (0, 0, 0, False, 1)


def test_what_cannot_be_compared():
    a, b = Replicates(1.0, np.zeros(5)), Replicates(1.0, np.zeros(6))
    with pytest.raises(UserError, match="draw as many of both"):
        difference(a, b)
    with pytest.raises(UserError, match="between 0 and 1"):
        a.interval(95)
