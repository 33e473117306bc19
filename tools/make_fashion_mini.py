"""Makes `fashion-mini`, the data set that ships with the package, from the full Fashion-MNIST.

Class-balanced: the first 1,000 training and the first 200 test images of each class, in the original order. The same
input gives the same bytes (numpy stamps every member of an .npz with 1980), so the sha256 that it prints, and that
`undye/data/mini.py` checks at load, changes only with the choice made here.

    python tools/make_fashion_mini.py
"""

import hashlib
from pathlib import Path

import numpy as np

from undye.data import load_images

OUT = Path(__file__).parents[1] / "src/undye/data/embedded/fashion-mini.npz"
PER_CLASS = {"train": 1000, "test": 200}
MAX_BYTES = 6_000_000


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """The indices, ascending, of the first `count` examples of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]))


def main() -> None:
    """Writes the file and prints its size and sha256."""
    arrays = {}
    for split, count in PER_CLASS.items():
        full = load_images("fashion-mnist", split=split)
        labels = full.labels(np.arange(len(full)))
        assert labels is not None
        chosen = first_of_each_class(labels, count)
        arrays[f"{split}_images"] = full.images(chosen)[..., 0]
        arrays[f"{split}_labels"] = labels[chosen].astype(np.uint8)
    np.savez_compressed(OUT, **arrays)
    blob = OUT.read_bytes()
    assert len(blob) <= MAX_BYTES, len(blob)
    print(f"{OUT}: {len(blob):,} bytes, sha256 {hashlib.sha256(blob).hexdigest()}")


if __name__ == "__main__":
    main()
