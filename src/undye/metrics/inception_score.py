"""The Inception Score (Salimans et al. 2016): how sure a classifier is of each image, and how varied its answers are.

It never looks at the reference. With another classifier than Inception's it is a score of the same kind, not the same
number: its highest value is the number of classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from undye import keyed
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics import fidelity
from undye.metrics.moments import check_features


@dataclass(frozen=True)
class InceptionScore:
    """exp E_x KL(p(y|x) || p(y)), the mean over splits.

    Attributes:
        value: between 1 and the number of classes.
        std: of the splits, as papers report it; not a standard error of the value.
        splits: how many.
    """

    value: float
    std: float
    splits: int


def inception_score(logits: Float[np.ndarray, "n k"], splits: int = 10, seed: int = 0) -> InceptionScore:
    """The score of the classifier's outputs, Salimans et al. 2016.

    Args:
        logits: of the samples, before the softmax.
        splits: parts of (nearly) the same size, each with its own p(y). A score falls with the size of a split: compare
            only those of the same n and splits.
        seed: names the shuffle before the split: samples often come class by class.

    Raises:
        UserError: for fewer images than splits, or logits that are not finite.
    """
    _, parts = split(logits, splits, seed)
    return InceptionScore(*fidelity.inception_score(logits[np.concatenate(parts)], splits), splits)


def split(logits: np.ndarray, splits: int, seed: int) -> tuple[Float64[np.ndarray, "n k"], list[np.ndarray]]:
    """(log p(y|x) in the order given, the image numbers of each split)."""
    check_features(logits)
    n = len(logits)
    if not 1 <= splits <= n:
        raise UserError(f"{n} images cannot be split into {splits}: give more images or fewer splits")
    order = keyed.permutation(n, seed, Stream.METRIC_SUBSETS, 3)
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x, [order[i * n // splits : (i + 1) * n // splits] for i in range(splits)]
