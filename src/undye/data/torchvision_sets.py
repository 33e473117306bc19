"""The data sets that torchvision knows how to download, and those that it knows how to read.

Looked for in the cache and under /usr/share/datasets, in torchvision's own layout, and downloaded into the cache.
"""

import logging
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.cache import SYSTEM, dataset_cache
from undye.data.names import NAMED_DATASETS
from undye.data.report import show_path
from undye.errors import UserError

_TIMEOUT = 20.0  # seconds without a byte: behind some firewalls a connection hangs for ever

_log = logging.getLogger("undye.data")


def download_idx(name: str) -> None:
    """Downloads MNIST or Fashion-MNIST into the cache; torchvision checks each archive's md5.

    Raises:
        UserError: no network, or wrong bytes.
    """
    from torchvision import datasets

    which = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    _download(name, lambda root: which(root, download=True))


def load_cifar(
    name: str, split: str, download: bool
) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Images, labels and class names (fine ones) of CIFAR-10 or CIFAR-100.

    The batches are pickles, which can run anything, so none is opened unchecked: torchvision's constructor compares
    every batch's md5 (`_check_integrity`) and that of the class names with its own table before it unpickles them, and
    raises otherwise, whether or not it downloads.

    Raises:
        UserError: neither present nor downloadable.
    """
    from torchvision import datasets

    which = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    data = _present_or_download(name, lambda root, get: which(root, train=split == "train", download=get), download)
    return np.ascontiguousarray(data.data), np.array(data.targets, dtype=np.int64), tuple(data.classes)


def load_svhn(split: str, download: bool) -> tuple[UInt8[np.ndarray, "n h w c"], Int64[np.ndarray, " n"]]:
    """Images and labels of SVHN's cropped digits; torchvision checks the md5 before it reads.

    Raises:
        UserError: neither present nor downloadable, or scipy is missing.
    """
    from torchvision import datasets

    try:
        data = _present_or_download("svhn", lambda root, get: datasets.SVHN(root, split, download=get), download)
    except ImportError as error:
        raise UserError("svhn is a MATLAB file, which scipy reads: pip install scipy") from error
    return np.ascontiguousarray(data.data.transpose(0, 2, 3, 1)), data.labels.astype(np.int64)


def find_celeba(split: str, download: bool) -> tuple[Path, list[str]]:
    """The folder of CelebA's aligned faces and the files of `split` in it; attributes are not used as labels.

    Raises:
        UserError: neither present nor downloadable.
    """
    from torchvision import datasets

    data = _present_or_download("celeba", lambda root, get: datasets.CelebA(root, split, download=get), download)
    return Path(data.root) / data.base_folder / "img_align_celeba", [str(name) for name in data.filename]


def _present_or_download(name: str, make: Callable[[Path, bool], Any], download: bool) -> Any:
    for root in (dataset_cache(), SYSTEM, SYSTEM / name):
        try:
            return make(root, False)
        except RuntimeError:  # torchvision's word for "not there, or not what it should be"
            continue
    if not download:
        raise UserError(f"{name} is not in {show_path(dataset_cache())}: {NAMED_DATASETS[name].without_network}")
    return _download(name, lambda root: make(root, True))


def _download(name: str, make: Callable[[Path], Any]) -> Any:
    root = dataset_cache()
    _log.info("downloading %s to %s", name, show_path(root))
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _timeout():
            return make(root)
    # An incomplete archive shows as RuntimeError (wrong md5); CelebA's needs gdown, which is an ImportError or that.
    except (RuntimeError, OSError, HTTPException, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "scipy":
            raise
        what = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip(" .:")
        raise UserError(
            f"cannot download {name} to {show_path(root)} ({what}): {NAMED_DATASETS[name].without_network}"
        ) from error


@contextmanager
def _timeout() -> Generator[None, None, None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
