"""What the solvers share that step in lambda = log(signal / noise) and remember earlier predictions of x_0.

Between t and s the probability flow is, exactly (Lu et al. 2022, DPM-Solver++, Eq. 8),

    x_s = noise_s / noise_t x_t + signal_s * integral over h' in [0, h] of exp(h' - h) x_0(lambda_t + h') dh',

with h = lambda_s - lambda_t. The solvers differ in the polynomial that they put in place of x_0(lambda). At s = 0,
where h is infinite, only the constant one has a limit: the last step of every one of them is x_s = x_0, its
prediction at t.
"""

from dataclasses import dataclass
from math import expm1

from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """A prediction of x_0, made at lambda."""

    lam: float
    x_0: Tensor


def orders(wanted: int | tuple[int, ...], steps: int) -> list[int]:
    """The order of each step: rising from 1, as predictions come in, to `wanted`, and falling to 1 at the last step.

    The fall is "lower order final", which keeps solutions of few steps stable (Lu et al. 2022, section 5). Where each
    step has a wish of its own only the last must be 1.
    """
    if isinstance(wanted, tuple):
        return [min(order, index + 1, 3 if index < steps - 1 else 1) for index, order in enumerate(wanted)]
    return [min(wanted, index + 1, steps - index) for index in range(steps)]


def slopes(h: float, seen: list[Seen], order: int) -> tuple[list[float], list[Tensor]]:
    """For the `order - 1` predictions before the last: r = (lambda - lambda_t) / h, and (x_0 - x_0 at t) / r."""
    now = seen[-1]
    r = [(earlier.lam - now.lam) / h for earlier in reversed(seen[:-1][-(order - 1) :] if order > 1 else [])]
    return r, [(seen[-2 - k].x_0 - now.x_0) / r_k for k, r_k in enumerate(r)]


def first_order(x: Tensor, x_0: Tensor, signal_s: float, noise_t: float, noise_s: float, h: float) -> Tensor:
    """x_s where x_0 is taken as constant: DDIM. Exact in its limit s = 0, h = inf."""
    return (noise_s / noise_t) * x - (signal_s * expm1(-h)) * x_0
