"""Classes on the command line: by number or name."""

from typing import TYPE_CHECKING

from undye.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

EACH = "all"
"""Every class in turn: image i is of class i modulo their number."""


def class_number(text: str, names: tuple[str, ...] | None, num_classes: int | None) -> int | None:
    """A class by number or name; None for no text.

    Raises:
        UserError: for one that the model does not have.
    """
    if not text:
        return None
    if num_classes is None:
        raise UserError("this model was trained without labels: leave --label out")
    lower = [name.lower() for name in names or ()]
    if text.lower() in lower:
        return lower.index(text.lower())
    if text.isascii() and text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = ", ".join(names) if names else f"0..{num_classes - 1}"
    raise UserError(f"no class {text!r}: choose from {known}")


def class_numbers(
    text: str, names: tuple[str, ...] | None, num_classes: int | None, n: int
) -> "int | Int64[np.ndarray, ' n'] | None":
    """The class of `n` images: one for all, or every class in turn.

    Raises:
        UserError: as `class_number`.
    """
    if text == EACH and num_classes is not None and EACH not in (name.lower() for name in names or ()):
        import numpy as np

        return np.arange(n) % num_classes
    return class_number(text, names, num_classes)
