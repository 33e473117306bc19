"""The data sets that can be asked for by name, and how an image size is written. Free of torch: `--help` reads it."""

import re
from dataclasses import dataclass

from undye.errors import UserError

_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class NamedDataset:
    """One entry of the table.

    Attributes:
        name: as the user writes it.
        about: one line for the help text.
        without_network: what to do where it is neither present nor downloadable; the end of a one-line error.
        class_names: the classes where they are fixed here; None where its own files name them or it has none.
    """

    name: str
    about: str
    without_network: str = ""
    class_names: tuple[str, ...] | None = None


_ELSEWHERE = "copy torchvision's files from a machine that has them"

NAMED_DATASETS: dict[str, NamedDataset] = {
    d.name: d
    for d in (
        NamedDataset(
            "fashion-mini",
            "10,000 + 2,000 images of Fashion-MNIST, 28x28x1, 10 classes; ships with undye",
            class_names=_FASHION,
        ),
        NamedDataset(
            "fashion-mnist",
            "60,000 + 10,000 images of clothing, 28x28x1, 10 classes",
            "install Debian's package dataset-fashion-mnist, or use fashion-mini, which ships with undye",
            _FASHION,
        ),
        NamedDataset("mnist", "60,000 + 10,000 handwritten digits, 28x28x1, 10 classes", _ELSEWHERE, _DIGITS),
        NamedDataset("cifar10", "50,000 + 10,000 photographs, 32x32x3, 10 classes", _ELSEWHERE),
        NamedDataset("cifar100", "50,000 + 10,000 photographs, 32x32x3, 100 classes", _ELSEWHERE),
        NamedDataset("svhn", "73,257 + 26,032 house numbers, 32x32x3, 10 classes", _ELSEWHERE, _DIGITS),
        NamedDataset("celeba", "162,770 + 19,962 faces, 218x178x3, no labels", _ELSEWHERE),
    )
}


HUB, HUB_STREAM = "hf:", "hf-stream:"
"""What the names of data sets of the library `datasets` begin with."""


def is_place(data: str) -> bool:
    """Whether `data` names something on this disk, rather than a data set of the table or of the hub."""
    return data not in NAMED_DATASETS and not data.startswith((HUB, HUB_STREAM))


def parse_image_size(text: str) -> tuple[int, int]:
    """Reads `H` (a square) or `HxW` into (height, width).

    Raises:
        UserError: for anything else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:[xX]([1-9][0-9]{0,4}))?", text.strip(), re.ASCII)
    if match is None:
        raise UserError(f"an image size is written H or HxW (height x width), like 64 or 48x64, not {text!r}")
    height, width = match.groups()
    return int(height), int(width or height)


def show_size(size: tuple[int, int]) -> str:
    """(height, width) as the user writes it: `HxW`."""
    return f"{size[0]}x{size[1]}"
