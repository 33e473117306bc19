"""The classes of images by the numbers of another set's: a folder of samples beside the reference."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from undye.errors import UserError


def class_numbers(
    labels: Int64[np.ndarray, " n"], names: Sequence[str], others: Sequence[str], who: str
) -> Int64[np.ndarray, " n"]:
    """The labels by the numbers of other classes: by name; or by number, where one side has numbers for names.

    Args:
        labels: of the images.
        names: what they stand for.
        others: the classes by whose numbers the labels shall be.
        who: the images, for the message.

    Raises:
        UserError: for a class that is not among the others.
    """
    used = {int(k): names[k] for k in np.unique(labels)}
    if all(name in others for name in used.values()):
        number = {k: others.index(name) for k, name in used.items()}
    elif _are_numbers(used.values()):  # folders 3 and 5 of a data set whose classes have names
        number = {k: int(name) for k, name in used.items()}
    elif _are_numbers(others):
        number = {k: k for k in used}
    else:
        number = {k: others.index(name) if name in others else -1 for k, name in used.items()}
    for k, other in number.items():
        if not 0 <= other < len(others):
            raise UserError(f"{who} has the class {used[k]!r}, the reference set only {', '.join(others)}")
    return np.array([number[k] for k in labels.tolist()], dtype=np.int64)


def _are_numbers(names: Iterable[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)
