"""Muon: momentum whose direction is made orthogonal, for the weight matrices inside a network.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the step length is that of Liu et al.
2025 (Eq. 4), under which a learning rate that suits Adam suits Muon. A convolution's weight counts as the matrix
(out, in * kernel). The first and last layers, biases, norms and embeddings are not its business: give them to Adam.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: they raise small singular values fast and leave all of them near 1 (0.7 to 1.2)."""
ITERATIONS = 5
STEP_RMS = 0.2
"""Root mean square of an update, in units of the learning rate: what Adam's updates usually have."""


class Muon(torch.optim.Optimizer):
    """One momentum buffer per weight; an update with singular values near 1 and entries of RMS 0.2 lr.

    Args:
        params: weights of at least two dimensions.
        lr: learning rate.
        momentum: decay of the average of the gradients; the step looks ahead (Nesterov).
        dtype: arithmetic of the orthogonalisation; bfloat16 is enough where it is fast.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyrefly: ignore
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(average, group["momentum"])
                # kernel positions before channels: with channels_last weights this is a view, and the matrix's columns
                # may come in any order
                matrix = ahead.movedim(1, -1).flatten(1)
                update = orthogonalise(matrix.to(self.dtype)).to(weight.dtype)
                update = update.unflatten(1, ahead.movedim(1, -1).shape[1:]).movedim(-1, 1)
                weight.add_(update, alpha=-group["lr"] * STEP_RMS * max(matrix.shape) ** 0.5)


def orthogonalise(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Nearly U V^T for a matrix U S V^T, by a Newton-Schulz iteration without any decomposition."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
