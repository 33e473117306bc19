"""The metrics against torch-fidelity's own functions, and against scipy in float64, on random features."""

import numpy as np
import pytest
import torch
from scipy import linalg

from undye import keyed
from undye.keyed import Stream
from undye.metrics.fid import frechet_distance
from undye.metrics.inception_score import inception_score
from undye.metrics.kid import kid_subsets, mmd2
from undye.metrics.moments import Moments
from undye.metrics.prdc import prdc

pytest.importorskip("torch_fidelity", minversion="0.4.0")
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

N, M, D = 700, 600, 48
RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((D, D)) / np.sqrt(D)
X = np.maximum(RNG.standard_normal((N, D)) @ MIX, 0)  # like a ReLU's: not Gaussian, some of them 0
Y = np.maximum(1.1 * RNG.standard_normal((M, D)) @ MIX + 0.1, 0)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)


def test_frechet_distance():
    value = frechet_distance(Moments.of(X), Moments.of(Y))
    stats = [metric_fid.fid_features_to_statistics(tensor(x)) for x in (X, Y)]
    theirs = metric_fid.fid_statistics_to_metric(*stats, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert value == pytest.approx(theirs, rel=1e-9)
    a, b = (np.cov(x, rowvar=False) for x in (X, Y))
    root = linalg.sqrtm(a @ b).real
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert value == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_few_images():
    """Singular covariances: the roots of theirs are noisy, so the reference is a product of singular values."""
    few = X[:30]
    value = frechet_distance(Moments.of(few), Moments.of(Y))
    stats = [metric_fid.fid_features_to_statistics(tensor(x)) for x in (few, Y)]
    theirs = metric_fid.fid_statistics_to_metric(*stats, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert value == pytest.approx(theirs, rel=1e-6)
    # the nuclear norm of the centred samples' product is tr (A B)^(1/2), without any covariance
    p, q = (few - few.mean(0)) / np.sqrt(29), (Y - Y.mean(0)) / np.sqrt(M - 1)
    root = linalg.svdvals(p @ q.T).sum()
    expected = ((few.mean(0) - Y.mean(0)) ** 2).sum() + (p**2).sum() + (q**2).sum() - 2 * root
    assert value == pytest.approx(expected, rel=1e-10)


def test_kernel_distance():
    size = 100
    settings = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
                "kid_kernel_poly_coef0": 1}  # fmt: skip
    for i in range(5):
        x, y = (a[np.random.default_rng(i).permutation(len(a))[:size]] for a in (X, Y))
        assert mmd2(x, y) == pytest.approx(metric_kid.kernel_mmd(x, y, **settings), rel=1e-9)
    drawn = [
        metric_kid.kernel_mmd(
            *(a[keyed.permutation(len(a), 4, Stream.METRIC_SUBSETS, 1 + j, i)[:size]] for j, a in enumerate((X, Y))),
            **settings,
        )
        for i in range(20)
    ]
    found = kid_subsets(X, Y, size, 20, seed=4)
    assert found.value == pytest.approx(np.mean(drawn), rel=1e-9)
    assert found.std == pytest.approx(np.std(drawn), rel=1e-9)


@pytest.mark.parametrize("splits", [1, 10, 7])
def test_inception_score(splits):
    logits = 3 * X[:, :12]
    order = keyed.permutation(N, 5, Stream.METRIC_SUBSETS, 3)
    theirs = metric_isc.isc_features_to_metric(tensor(logits[order]), splits, shuffle=False)
    found = inception_score(logits, splits, seed=5)
    assert found.value == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert found.std == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_STD], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("saving", [False, True])
def test_precision_and_recall(k, saving):
    theirs = metric_prc.prc_features_to_metric(
        tensor(X), tensor(Y), prc_neighborhood=k, prc_batch_size=256, save_cpu_ram=saving, verbose=False
    )
    found = prdc(X, Y, k_pr=k)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1
    assert found.precision == pytest.approx(theirs[metric_prc.KEY_METRIC_PRECISION], abs=1e-6)
    assert found.recall == pytest.approx(theirs[metric_prc.KEY_METRIC_RECALL], abs=1e-6)
