"""MNIST and Fashion-MNIST: the same four idx files under two names.

They are looked for, gzipped or not, where Debian puts them and in the cache, in torchvision's layout or flat, and are
downloaded by torchvision. Whatever the way here, the content is checked.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.cache import SYSTEM, dataset_cache
from undye.data.report import show_path
from undye.errors import UserError

# Of the unpacked content: Debian packs the files anew, so that the published checksums of the .gz do not fit there.
_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
_TORCHVISION_FOLDER = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def find_idx(name: str, split: str) -> tuple[Path, Path] | None:
    """The files of the images and of the labels where both are in one folder; None where they are not."""
    prefix = "train" if split == "train" else "t10k"
    for base in (SYSTEM, dataset_cache()):
        for folder in (base / name, base / _TORCHVISION_FOLDER[name] / "raw"):
            images = _plain_or_gz(folder / f"{prefix}-images-idx3-ubyte")
            labels = _plain_or_gz(folder / f"{prefix}-labels-idx1-ubyte")
            if images is not None and labels is not None:
                return images, labels
    return None


def read_idx(name: str, images: Path, labels: Path) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"]]:
    """Reads and checks the two files.

    Raises:
        UserError: damaged, or not what the name says.
    """
    # With the checksum right, the headers (16 and 8 bytes) hold nothing that is not known.
    pixels = np.frombuffer(_content(name, images), dtype=np.uint8, offset=16).reshape(-1, 28, 28, 1)
    classes = np.frombuffer(_content(name, labels), dtype=np.uint8, offset=8).astype(np.int64)
    return pixels, classes


def _plain_or_gz(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def _content(name: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {show_path(path)}: {error}; delete it to have it downloaded again") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _MD5[name][path.name.removesuffix(".gz")]:
        raise UserError(f"{show_path(path)} is not {name}'s (wrong checksum): delete it to have it downloaded again")
    return content
