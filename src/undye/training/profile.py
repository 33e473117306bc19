"""Power-function averages: what each step's weights count for, and how well some averages add up to another one.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.1 and appendix C. The
average after step T counts what the weights were at time tau as tau^gamma, so it always reaches over the same part of
the run. In steps, with g = gamma + 1 and theta_k the weights after step k:

    average_T = sum_k w_k theta_k,    w_k = (k^g - (k - 1)^g) / T^g,    k = 1..T.

The sum telescopes: (k/T)^g of all weight lies on steps 1..k, exactly as in continuous time, and the recursion
average_k = beta_k average_{k-1} + (1 - beta_k) theta_k with beta_k = (1 - 1/k)^g has these weights, with no error.

The length of an average is `std`, the standard deviation of tau / T under its weights.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

LONGEST = 12**-0.5
"""std of the plain mean over the run, gamma = 0. A longer average would count the start for more than the end."""
SHORTEST = 0.001
"""std below which nobody has asked for an average: gamma is 1000 there."""
REACHABLE = 0.01
"""The most of `fit`'s error with which an average still counts as made from others."""
_RIDGE = 1e-13


@lru_cache
def gamma_of(std: float) -> float:
    """The exponent of the average whose length is `std` (Karras et al. 2024, Eq. 126), in 0 < std <= `LONGEST`."""
    if not 0 < std <= LONGEST:
        raise ValueError(f"std must lie in (0, {LONGEST:.4f}], got {std}")
    # std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)); the largest root is the one with gamma >= 0
    s = std**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def std_of(gamma: float) -> float:
    """The length of the average with this exponent, in parts of the run."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def share_of_step(std: float, step: int) -> float:
    """1 - beta: for how much step number `step` (the first is 1) counts in the average right after it."""
    return 1.0 if step == 1 else -math.expm1((gamma_of(std) + 1) * math.log1p(-1 / step))


def step_weights(std: float, step: int) -> np.ndarray:
    """(step,) what each step's weights count for in the average after `step`; they sum to 1."""
    return np.diff((np.arange(step + 1) / step) ** (gamma_of(std) + 1))


def fit(steps: ArrayLike, stds: ArrayLike, step: int, wanted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The sums of stored averages that come closest to averages of other lengths.

    Close is meant in the mean over networks whose weights walk at random: with F(tau) the share of an average's weight
    that lies before tau, the sum's distance from the wanted average is then the integral of (F - sum_i x_i F_i)^2. The
    paper takes the densities F' in place of F, which is right for weights that are noise around a constant, and serves
    long averages less well (docs/ema.md). The coefficients sum to 1, so that weights that stand still are met exactly.

    Args:
        steps: (n,) after which each stored average was taken, none beyond `step`.
        stds: (n,) their lengths.
        step: at which the wanted ones are.
        wanted: (m,) their lengths.

    Returns:
        coefficients (n, m), and errors (m,): the root mean square distance of the sums from the wanted averages, in
        units of the wanted averages' own distance from the last weights, for weights that walk at random.
    """
    a = np.asarray(steps, dtype=np.float64) / step
    exponents = {std: gamma_of(std) + 1 for std in {*map(float, np.ravel(stds)), *map(float, np.ravel(wanted))}}
    g = np.array([exponents[float(std)] for std in np.ravel(stds)])
    h = np.array([exponents[float(std)] for std in np.ravel(wanted)])
    gram = _inner(a[:, None], g[:, None], a, g)
    target = _inner(a[:, None], g[:, None], np.ones_like(h), h)
    size = np.diag(gram) ** -0.5
    # neighbouring averages are nearly the same: a ridge of rounding size keeps the coefficients from growing on noise
    scaled = gram * size[:, None] * size + _RIDGE * np.eye(len(a))
    solved = np.linalg.solve(scaled, np.column_stack([size[:, None] * target, size]))
    free, towards_sum = solved[:, :-1], solved[:, -1:]
    x = size[:, None] * (free - towards_sum * (size @ free - 1) / (size @ towards_sum))
    square = np.sum(x * (gram @ x - 2 * target), axis=0) + _inner(1.0, h, 1.0, h)
    return x, np.sqrt(np.maximum(square, 0) * (2 * h + 1))


def reachable(steps: ArrayLike, stds: ArrayLike, step: int) -> list[tuple[float, float]]:
    """The ranges of lengths, to 0.001, that can be made from stored averages with no more error than `REACHABLE`."""
    grid = np.arange(1, int(1000 * LONGEST) + 1) / 1000
    good = fit(steps, stds, step, grid)[1] <= REACHABLE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]])))
    return [(float(grid[start]), float(grid[end - 1])) for start, end in edges.reshape(-1, 2)]


def _inner(a: ArrayLike, g: ArrayLike, b: ArrayLike, h: ArrayLike) -> np.ndarray:
    """The integral of (1 - F_a)(1 - F_b), F_a(tau) = min(1, tau / a)^g: all that coefficients that sum to 1 need."""
    a, g, b, h = (np.asarray(v, dtype=np.float64) for v in (a, g, b, h))
    m = np.minimum(a, b)
    f_a, f_b = (m / a) ** g, (m / b) ** h
    return m * (1 - f_a / (g + 1) - f_b / (h + 1) + f_a * f_b / (g + h + 1))
