from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test sees this machine's data sets or reaches for the network."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("UNDYE_CACHE", str(cache))
    monkeypatch.setattr("socket.socket.connect", _no_network)
    monkeypatch.setattr("socket.getaddrinfo", _no_network)
    return cache / "datasets"


def _no_network(*_args, **_kwargs):
    raise OSError("no network in tests")


@pytest.fixture
def save(tmp_path):
    """Writes an image (or raw bytes) below `tmp_path`; noise of a size by default."""

    def write(name: str, image=None, size=(8, 8), **options) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
            return path
        if image is None:
            image = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), dtype=np.uint8)
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image.save(path, **options)
        return path

    return write
