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
        """Update every weight that has a gradient; those of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
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
                by_shape.setdefault(matrix.shape, []).append((weight, matrix))
            for shape, pairs in by_shape.items():
                updates = orthogonalise(torch.stack([m for _, m in pairs]).to(self.dtype))
                size = group["lr"] * STEP_RMS * max(shape) ** 0.5
                for (weight, _), update in zip(pairs, updates.to(pairs[0][0].dtype), strict=True):
                    kernel_last = weight.movedim(1, -1)
                    kernel_last.add_(update.reshape(kernel_last.shape), alpha=-size)


def orthogonalise(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """Nearly U V^T for each matrix U S V^T, by a Newton-Schulz iteration without any decomposition.

    Every iterate is a polynomial in the Gram matrix G times the first one, X_k = Q_k X_0: only G and the last product
    touch the long side, and the iteration itself runs on the short one. Both need float32 or better: an eigenvalue
    that rounding made negative grows by a factor of 12 in each iteration, and from bfloat16's it would blow up.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    exact = torch.promote_types(x.dtype, torch.float32)
    gram = x.to(exact) @ x.mT.to(exact)
    square = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] + 1e-14
    gram = gram / square  # X_0 = X / |X|, so that no singular value is above 1
    identity = torch.eye(x.shape[1], dtype=exact, device=x.device)
    q = identity
    for i in range(ITERATIONS):
        step = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        q = step if i == 0 else step @ q
        if i < ITERATIONS - 1:
            gram = step @ gram @ step
    out = (q / square.sqrt()).to(x.dtype) @ x
    return out.mT if tall else out
