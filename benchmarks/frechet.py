"""The Frechet distance between two sets of features, in float64."""

from collections.abc import Callable

import numpy as np


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians fitted to features a (N, D) and b (M, D): |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2))."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return between_gaussians(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def between_gaussians(mu_a: np.ndarray, cov_a: np.ndarray, mu_b: np.ndarray, cov_b: np.ndarray) -> float:
    """The same from means and covariances.

    The eigenvalues of A B are those of the symmetric A^(1/2) B A^(1/2), which are found without complex arithmetic.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root)
    trace_of_root = np.sqrt(np.clip(product, 0, None)).sum()
    return float(((mu_a - mu_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root)


def with_spread(a: np.ndarray, reference: np.ndarray, seed: int, halves: int = 20) -> tuple[float, float]:
    """The distance, and the standard deviation of the distance of random halves of `a`: how far chance could move it.

    Half as many samples scatter by about sqrt(2) more, and halves of one set by sqrt(1/2) less: the two cancel.
    """
    draw = np.random.default_rng(seed)
    distances = [frechet(a[draw.permutation(len(a))[: len(a) // 2]], reference) for _ in range(halves)]
    return frechet(a, reference), float(np.std(distances, ddof=1))


def self_check() -> None:
    """Stop unless the distance has its closed forms.

    Raises:
        AssertionError: it does not.
    """
    draw = np.random.default_rng(0)
    normal: Callable[..., np.ndarray] = draw.standard_normal
    x = normal((500, 64)) @ normal((64, 64))
    assert abs(frechet(x, x)) < 1e-8 * np.trace(np.cov(x, rowvar=False)), "FD(A, A) is not 0"
    shift = normal(64)
    assert abs(frechet(x, x + shift) / (shift @ shift) - 1) < 1e-8, "a shift does not count as its square"
    # covariances with the same axes: the roots subtract axis by axis
    q, _ = np.linalg.qr(normal((64, 64)))
    s, r = draw.uniform(0.1, 3, 64), draw.uniform(0.1, 3, 64)
    found = between_gaussians(np.zeros(64), q @ np.diag(s**2) @ q.T, shift, q @ np.diag(r**2) @ q.T)
    assert abs(found / (shift @ shift + ((s - r) ** 2).sum()) - 1) < 1e-10, "commuting Gaussians are wrong"
    # any 2x2 covariances: tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2)
    a, b = (y @ y.T for y in (normal((2, 2)), normal((2, 2))))
    expected = np.trace(a + b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert abs(between_gaussians(np.zeros(2), a, np.zeros(2), b) / expected - 1) < 1e-8, "general Gaussians are wrong"
