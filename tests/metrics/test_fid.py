"""The Frechet distance: closed forms, singular covariances, and the bias of a finite sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undye.errors import UserError
from undye.metrics import fid_expansion
from undye.metrics.fid import expected_bias, factor, fid_infinity, frechet_distance, per_class
from undye.metrics.moments import Moments

D = 16


def gaussian(mean: np.ndarray, cov: np.ndarray) -> Moments:
    """A distribution that is known, not sampled."""
    return Moments(10**9, mean, cov)


def draw(rng: np.random.Generator, n: int, of: Moments) -> np.ndarray:
    return of.mean + rng.standard_normal((n, of.dims)) @ np.linalg.cholesky(of.cov).T


def some(seed: int, n: int = 400, d: int = D) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


A = gaussian(np.full(D, 0.1), np.diag(1 / np.arange(1.0, D + 1)))
B = gaussian(np.zeros(D), np.diag(1.2 / np.arange(1.0, D + 1)) + 0.02)


@pytest.mark.parametrize("n", [400, D, 5], ids=["full rank", "as many as dimensions", "few"])
def test_the_distance_to_itself_is_0(n):
    a = Moments.of(some(0, n))
    assert abs(frechet_distance(a, a)) < 1e-12 * np.trace(a.cov)


@given(st.integers(0, 2**32 - 1), st.integers(1, 399))
def test_order_and_batches_do_not_matter(seed, cut):
    x, reference = some(1), Moments.of(some(2))
    x_shuffled = np.random.default_rng(seed).permutation(x)
    assert frechet_distance(Moments.of(np.roll(x_shuffled, cut, 0)), reference) == pytest.approx(
        frechet_distance(Moments.of(x), reference), rel=1e-10
    )


def test_symmetric_and_unmoved_by_a_rotation():
    x, y = some(1), some(2)
    q, _ = np.linalg.qr(some(3, D))
    value = frechet_distance(Moments.of(x), Moments.of(y))
    assert frechet_distance(Moments.of(y), Moments.of(x)) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(Moments.of(x @ q), Moments.of(y @ q)) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(Moments.of(3 * x), Moments.of(3 * y)) == pytest.approx(9 * value, rel=1e-10)


def test_closed_forms():
    rng = np.random.default_rng(0)
    shift, (s, r) = rng.standard_normal(D), rng.uniform(0.1, 3, (2, D))
    q, _ = np.linalg.qr(rng.standard_normal((D, D)))
    a = gaussian(np.zeros(D), (q * s**2) @ q.T)
    assert frechet_distance(a, gaussian(shift, a.cov)) == pytest.approx(shift @ shift, rel=1e-12)
    # the same axes: the roots subtract axis by axis
    b = gaussian(shift, (q * r**2) @ q.T)
    assert frechet_distance(a, b) == pytest.approx(shift @ shift + ((s - r) ** 2).sum(), rel=1e-12)
    # any two covariances in the plane: tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2)
    u, v = (y @ y.T for y in rng.standard_normal((2, 2, 2)))
    expected = np.trace(u + v) - 2 * np.sqrt(np.trace(u @ v) + 2 * np.sqrt(np.linalg.det(u @ v)))
    zero = np.zeros(2)
    assert frechet_distance(gaussian(zero, u), gaussian(zero, v)) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_have_their_exact_distance():
    # Gaussians on two lines at an angle: tr (A B)^(1/2) = |cos| s r
    u, v, s, r = np.array([1.0, 0, 0]), np.array([0.6, 0.8, 0]), 2.0, 3.0
    a, b = (Moments(2, np.zeros(3), w**2 * np.outer(x, x)) for x, w in ((u, s), (v, r)))
    assert factor(a).shape == (3, 1)
    assert frechet_distance(a, b) == pytest.approx(s**2 + r**2 - 2 * 0.6 * s * r, rel=1e-14)
    # few images of many numbers: the same after a rotation into the space that they span
    x, y = some(4, 9, 40), some(5, 200, 40)
    q, _ = np.linalg.qr(some(6, 40, 40))
    assert frechet_distance(Moments.of(x @ q), Moments.of(y @ q)) == pytest.approx(
        frechet_distance(Moments.of(x), Moments.of(y)), rel=1e-12
    )


def test_constant_features():
    x = np.ones((50, 3))
    assert frechet_distance(Moments.of(x), Moments.of(x)) == 0
    assert frechet_distance(Moments.of(x), Moments.of(x + 2)) == pytest.approx(12)
    assert expected_bias(Moments.of(x), Moments.of(x)) == 0
    assert fid_expansion.expand(x, Moments.of(x + 2)).standard_error == 0


def test_different_dimensions():
    with pytest.raises(UserError, match="use one network"):
        frechet_distance(Moments.of(some(0)), Moments.of(some(0)[:, :5]))
    with pytest.raises(UserError, match="use one network"):
        expected_bias(Moments.of(some(0)), Moments.of(some(0)[:, :5]))
    with pytest.raises(UserError, match="at least 2 images"):
        expected_bias(A, B, 1)


def test_the_expected_bias_is_what_gaussian_samples_have():
    rng, n = np.random.default_rng(0), 400
    truth = frechet_distance(A, B)
    found = np.array([frechet_distance(Moments.of(draw(rng, n, A)), B) for _ in range(300)]) - truth
    error = found.std() / np.sqrt(300)
    expected = expected_bias(A, B, n)
    assert expected > 10 * error, "the test must see it"
    assert found.mean() == pytest.approx(expected, abs=3 * error + 0.03 * expected)
    # from a sample's own moments it is nearly the same, and it falls as 1/n
    assert expected_bias(Moments.of(draw(rng, n, A)), B) == pytest.approx(expected, rel=0.05)
    assert expected_bias(A, B, 10 * n) == pytest.approx(expected / 10, rel=0.01)
    # one white Gaussian against itself: (D + D (D + 1) / 4) / n
    white = gaussian(np.zeros(D), np.eye(D))
    assert expected_bias(white, white, 10**6) == pytest.approx((D + D * (D + 1) / 4) / 1e6, rel=1e-5)


@pytest.mark.parametrize("heavy", [False, True], ids=["Gaussian", "heavy tails"])
def test_the_expansion_knows_bias_and_spread_also_of_heavy_tails(heavy):
    rng, n, repeats = np.random.default_rng(1), 400, 300
    values, biases, errors = np.empty((3, repeats))
    for i in range(repeats):
        x = draw(rng, n, gaussian(np.zeros(D), A.cov))
        if heavy:
            x *= np.sqrt(rng.gamma(1, 1, (n, 1)))  # E = 1: the same covariance, kurtosis 6
        about = fid_expansion.expand(x + A.mean, B)
        values[i], biases[i], errors[i] = about.value, about.bias, about.standard_error
    bias = values.mean() - frechet_distance(A, B)
    assert biases.mean() == pytest.approx(bias, rel=0.15)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)
    assert abs(about.influences.mean()) < 1e-9
    if heavy:
        assert bias > 1.3 * expected_bias(A, B, n), "which assumes a Gaussian"


def test_influences_are_derivatives():
    x, reference = some(1), Moments.of(some(2))
    about = fid_expansion.expand(x, reference)
    assert about.value == pytest.approx(frechet_distance(Moments.of(x), reference), rel=1e-12)
    for i in (0, 7, 99):
        # an image counted a little more: a mixture of the sample's moments and the image
        own, step = Moments.of(x), 1e-6
        off = x[i] - own.mean
        moved = Moments(own.n, own.mean + step * off, (1 - step) * own.cov + step * (1 - step) * np.outer(off, off))
        slope = (frechet_distance(moved, reference) - about.value) / step
        assert slope == pytest.approx(about.influences[i], rel=1e-3, abs=1e-3 * np.abs(about.influences).max())


def test_fid_infinity_is_nearer_to_the_truth():
    rng, n, truth = np.random.default_rng(2), 500, frechet_distance(A, B)
    plain, limit = np.empty((2, 60))
    for i in range(60):
        x = draw(rng, n, A)
        found = fid_infinity(x, B, seed=i)
        assert found is not None
        plain[i], limit[i] = found.values[0], found.value
    assert found.ns == (500, 250, 167, 125, 100)
    assert found.values[0] == pytest.approx(frechet_distance(Moments.of(x), B), rel=1e-10), "the whole set"
    assert found.r2 > 0.99
    assert found.slope / n == pytest.approx(expected_bias(A, B, n), rel=0.25)
    error = limit.std() / np.sqrt(60)
    assert abs(limit.mean() - truth) < 3 * error
    assert abs(plain.mean() - truth) > 5 * abs(limit.mean() - truth)
    assert ((limit - truth) ** 2).mean() < 0.8 * ((plain - truth) ** 2).mean()


def test_fid_infinity_of_few_images():
    assert fid_infinity(some(0, 2 * D), B) is None
    ticks = []
    found = fid_infinity(some(0, 2 * D + 2), B, progress=lambda *args: ticks.append(args))
    assert found is not None
    assert found.ns == (2 * D + 2, D + 1)
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    assert found.r2 == pytest.approx(1)
    again, other = (fid_infinity(some(0, 200), B, seed=s) for s in (0, 1))
    assert again == fid_infinity(some(0, 200), B, seed=0) != other


def test_per_class():
    x, y = some(1), some(2)
    labels, others = np.arange(400) % 3, np.arange(400) % 3
    labels[labels == 2] = 7
    others[5] = 2
    found = {row.label: row for row in per_class(x, labels, y, others)}
    assert list(found) == [0, 1, 2, 7]
    assert found[1].value == pytest.approx(frechet_distance(Moments.of(x[labels == 1]), Moments.of(y[others == 1])))
    assert (found[7].n, found[7].reference_n, found[7].value, found[7].rank_deficient) == (133, 0, None, True)
    assert not found[0].rank_deficient
    with pytest.raises(UserError, match="one label for every image"):
        per_class(x, labels[:-1], y, others)
