"""The metrics on random features: torch-fidelity's functions as undye calls them, undye's own, float64 references."""

import numpy as np
import pytest
from scipy import linalg, spatial, special

from undye import keyed
from undye.keyed import Stream
from undye.metrics import fidelity
from undye.metrics.bootstrap import inception_score_replicates
from undye.metrics.fid import frechet_distance, reported_distance
from undye.metrics.inception_score import inception_score
from undye.metrics.kid import kid, kid_subsets
from undye.metrics.moments import Moments
from undye.metrics.prdc import prdc

N, M, D = 700, 600, 48
RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((D, D)) / np.sqrt(D)
X = np.maximum(RNG.standard_normal((N, D)) @ MIX, 0)  # like a ReLU's: not Gaussian, some of them 0
Y = np.maximum(1.1 * RNG.standard_normal((M, D)) @ MIX + 0.1, 0)


def test_frechet_distance():
    theirs, ours = (of(Moments.of(X), Moments.of(Y)) for of in (fidelity.frechet_distance, frechet_distance))
    a, b = (np.cov(x, rowvar=False) for x in (X, Y))
    root = linalg.sqrtm(a @ b).real
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert theirs == pytest.approx(expected, rel=1e-9)
    assert ours == pytest.approx(expected, rel=1e-9)
    assert abs(fidelity.frechet_distance(Moments.of(X), Moments.of(X))) < 1e-10
    assert fidelity.frechet_distance(Moments.of(X[::-1]), Moments.of(Y)) == pytest.approx(theirs, rel=1e-10), (
        "any order"
    )


def test_frechet_distance_of_few_images():
    """Singular covariances: torch-fidelity's roots are noisy, so the reference is a product of singular values."""
    few = X[:30]
    value = frechet_distance(Moments.of(few), Moments.of(Y))
    assert fidelity.frechet_distance(Moments.of(few), Moments.of(Y)) == pytest.approx(value, rel=1e-6)
    # the nuclear norm of the centred samples' product is tr (A B)^(1/2), without any covariance
    p, q = (few - few.mean(0)) / np.sqrt(29), (Y - Y.mean(0)) / np.sqrt(M - 1)
    root = linalg.svdvals(p @ q.T).sum()
    expected = ((few.mean(0) - Y.mean(0)) ** 2).sum() + (p**2).sum() + (q**2).sum() - 2 * root
    assert value == pytest.approx(expected, rel=1e-10)


def test_a_report_has_torch_fidelitys_distance_but_of_singular_covariances():
    a, b = Moments.of(X), Moments.of(Y)
    assert reported_distance(a, b) == fidelity.frechet_distance(a, b)
    # features that depend on each other, of enough images: the roots of rounded zeros add up
    p, q = (x[:, :4] @ RNG.standard_normal((4, D)) for x in (X, Y))
    q = Y[:, :4] @ linalg.lstsq(X[:, :4], p)[0]
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (p, q)]
    root = linalg.svdvals(centred[0] @ centred[1].T).sum()
    expected = ((p.mean(0) - q.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * root
    a, b = Moments.of(p), Moments.of(q)
    assert reported_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert fidelity.frechet_distance(a, b) != pytest.approx(expected, rel=1e-6), "this is what it is for"


@pytest.mark.parametrize(
    ("n", "m", "dims", "levels"), [(100, 300, 6, 3), (500, 500, 10, 2), (60, 60, 3, 5), (20, 24, 3, 5)]
)
def test_an_image_on_the_edge_of_a_ball_is_in_it(n, m, dims, levels):
    """Features of few levels have many equal distances; beside whole numbers, where those are known exactly."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, levels, (k, dims)) for k in (n, m))
    d, own, other = (((p[:, None] - q) ** 2).sum(-1) for p, q in ((x, y), (x, x), (y, y)))
    own.sort(1)
    other.sort(1)
    expected = (d <= other[:, 3]).any(1).mean(), (own[:, 3] >= d.T).any(1).mean()
    for scale in (1.0, 2.0**-7):
        p, q = ((scale * side).astype(np.float32) for side in (x, y))
        assert fidelity.precision_recall(p, q) == expected
        found = prdc(p, q)
        assert (found.precision, found.recall) == expected


def test_kernel_distance():
    size = 100
    drawn = []
    for i in range(20):
        x, y = (a[keyed.permutation(len(a), 4, Stream.METRIC_SUBSETS, 1 + j, i)[:size]] for j, a in enumerate((X, Y)))
        drawn.append(kid(x, y).value)
        assert fidelity.kernel_distance(x, y) == pytest.approx(drawn[-1], rel=1e-9), "another implementation"
    found = kid_subsets(X, Y, size, 20, seed=4)
    assert found.value == pytest.approx(np.mean(drawn), rel=1e-9)
    assert found.std == pytest.approx(np.std(drawn), rel=1e-9)


@pytest.mark.parametrize("splits", [1, 10, 7])
def test_inception_score(splits):
    logits = 3 * X[:, :12]
    order = keyed.permutation(N, 5, Stream.METRIC_SUBSETS, 3)
    log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
    scores = []
    for i in range(splits):
        part = log_p[order[i * N // splits : (i + 1) * N // splits]]
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(0)))).sum(1).mean()))
    found = inception_score(logits, splits, seed=5)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.std == pytest.approx(np.std(scores), rel=1e-9, abs=1e-12)
    whole = inception_score_replicates(logits, np.ones((2, N), dtype=np.uint8), splits, seed=5)
    np.testing.assert_allclose(whole.values, found.value, rtol=1e-12, err_msg="each image once is the set itself")


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("distances", [1, 2**12, 2**23])
def test_precision_and_recall(monkeypatch, k, distances):
    monkeypatch.setattr(fidelity, "DISTANCES", distances)
    x, y = (X[:200], 0.9 * Y[:200]) if distances == 1 else (X, Y)
    precision, recall = fidelity.precision_recall(x, y, k)
    found = prdc(x, y, k_pr=k)
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert (precision, recall) == (found.precision, found.recall)
    d, own, other = (spatial.distance.cdist(*sides) for sides in ((x, y), (x, x), (y, y)))
    own.sort(0)
    other.sort(0)
    assert precision == (d <= other[k]).any(1).mean()
    assert recall == (d <= own[k][:, None]).any(0).mean()
