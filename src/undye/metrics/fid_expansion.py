"""The Frechet distance as a function of its sample, to second order: what chance does to it, without resampling.

Let y be the features about their mean in the coordinates where the reference's B^(1/2) A B^(1/2) is diagonal, with
eigenvalues s_j^2. Replacing the moments by those of another sample of the same distribution changes the distance by a
mean of influences (first order; von Mises 1947)

    2 (mu_a - mu_b).(x - mu_a) + |x - mu_a|^2 - tr A - sum_j (y_j^2 - s_j^2) / s_j

and by |delta mu|^2 + 1/2 sum_jk Delta_jk^2 / c_jk, c_jk = s_j s_k (s_j + s_k) (second order), where Delta, the error of
the covariance, has the variances E[y_j^2 y_k^2] - E[y_j y_k]^2 over n. The first order has the mean 0 and vanishes
where the sets are alike; the second is never negative: it is the bias.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from undye.metrics.fid import factor, frechet_distance
from undye.metrics.moments import ROWS, Moments, check_features


@dataclass(frozen=True)
class Expansion:
    """A distance, and how it would differ in another sample of as many images.

    Attributes:
        value: the distance.
        influences: what each image adds, (n,); they sum to 0.
        bias: mean of the second-order term: by how much the value is too large on average. Unlike `fid.expected_bias`
            it takes the features' fourth moments as they are, not as a Gaussian's.
        second_order_variance: of that term.
    """

    value: float
    influences: np.ndarray
    bias: float
    second_order_variance: float

    @property
    def standard_error(self) -> float:
        """Of the value, over samples of the same size; the reference stays as it is."""
        n = len(self.influences)
        first = self.influences.var(ddof=1) / n - 2 * self.second_order_variance  # see bootstrap.combined
        return float(np.sqrt(max(first, 0) + self.second_order_variance))


def expand(features: Float[np.ndarray, "n d"], reference: Moments) -> Expansion:
    """Expand the distance about a sample, whose covariance should have full rank.

    Args:
        features: of the sample.
        reference: of the reference.

    Raises:
        UserError: for features that do not fit the reference.
    """
    check_features(features)
    own = Moments.of(features)
    value, n = frechet_distance(own, reference), own.n
    root = factor(reference)
    squares, vectors = np.linalg.eigh(root.T @ own.cov @ root)
    kept = squares > squares[-1] * len(squares) * np.finfo(np.float64).eps if len(squares) else squares > 0
    s, to_y = np.sqrt(squares[kept]), root @ vectors[:, kept]
    influences, fourth = np.empty(n), np.zeros((len(s), len(s)))
    shift, trace = 2 * (own.mean - reference.mean), np.trace(own.cov)
    for start in range(0, n, ROWS):
        x = features[start : start + ROWS] - own.mean
        y_2 = (x @ to_y) ** 2
        influences[start : start + ROWS] = x @ shift + (x * x).sum(1) - trace - y_2 @ (1 / s) + s.sum()
        fourth += y_2.T @ y_2
    variances = fourth / n - np.diag(s**4)
    pairs = variances / (np.outer(s, s) * np.add.outer(s, s))
    bias = trace / n + pairs.sum() / (2 * n)
    # independent normal Delta_jk, as for Gaussian features; |delta mu|^2 is a sum of squares of variances lambda / n
    variance = ((pairs**2).sum() - 0.5 * (np.diag(pairs) ** 2).sum() + 2 * (own.cov**2).sum()) / n**2
    return Expansion(value, influences - influences.mean(), float(bias), float(variance))
