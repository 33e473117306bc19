"""The features of a set of images, computed once and kept on disk: memory stays flat, however many images there are.

They are kept under the hash of the images' bytes and of the extractor, so that those of a reference set are never those
of another one, whatever its name or path says; and checked by their own hashes when they are read again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from undye.data.cache import dataset_cache
from undye.data.source import ImageSource
from undye.errors import UserError
from undye.files import atomic_path, remove
from undye.metrics.extractor import FeatureExtractor
from undye.metrics.versions import undye_version

MANIFEST = "manifest.json"
PARTS = ("pooled", "spatial", "logits")


def feature_cache() -> Path:
    """`features` in undye's cache folder: those of reference sets. May be removed at any time."""
    return dataset_cache().parent / "features"


@dataclass(frozen=True)
class FeatureFiles:
    """Features of n images, mapped from files.

    Attributes:
        pooled: (n, D).
        spatial: (n, S); None of an extractor without.
        logits: (n, K); None of an extractor without.
        content: the SHA-256 of the images.
        kept: whether they were there already.
        damaged: whether there were some that were not what had been written, and were computed again.
    """

    pooled: Float32[np.ndarray, "n d"]
    spatial: Float32[np.ndarray, "n s"] | None
    logits: Float32[np.ndarray, "n k"] | None
    content: str
    kept: bool
    damaged: bool

    def __len__(self) -> int:
        return len(self.pooled)


def features_of(
    source: ImageSource,
    extractor: FeatureExtractor,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int | None = None,
) -> FeatureFiles:
    """The features of all images of a source, from a folder if they are there, else computed and kept in it.

    Args:
        source: the images, which are read once for their hash, and once more where their features are not there.
        extractor: what computes.
        folder: keeps features, each in a folder named by the hashes of what they are of.
        progress: called with (images done, all).
        batch_size: of the extractor; None: its own choice.

    Raises:
        UserError: for images that the extractor cannot take, or a folder that cannot be written to.
    """
    extractor.check(source.image_size, source.channels)
    content = content_hash(source)
    about = {
        "images": content, "extractor": extractor.hash, "undye": undye_version(), "device": extractor.device.type
    }  # fmt: skip
    place = folder / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    there, found = place.exists(), _read(place, about, len(source))
    if found is None:
        try:
            remove(place)
            with atomic_path(place) as temporary:
                _write(temporary, source, extractor, about, progress, batch_size)
        except OSError as error:
            found = _read(place, about, len(source))  # another evaluation may have been a moment quicker
            if found is None:
                raise UserError(
                    f"cannot keep features in {folder} ({error.strerror}): make room there, or set UNDYE_CACHE to a "
                    "folder that can be written to"
                ) from None
    arrays = found or _read(place, about, len(source))
    if arrays is None:
        raise UserError(f"{place} is not what was just written there: is the disk full, or broken?")
    if progress is not None:
        progress(len(source), len(source))
    return FeatureFiles(
        arrays["pooled"], arrays.get("spatial"), arrays.get("logits"),
        content=content, kept=found is not None, damaged=there and found is None,
    )  # fmt: skip


def content_hash(source: ImageSource) -> str:
    """The SHA-256 of a source's pixels and their shape, in its order."""
    digest = hashlib.sha256(f"{(len(source), *source.image_size, source.channels)}\n".encode())
    for rows in chunks_of(source):
        digest.update(np.ascontiguousarray(source.images(rows)).data)
    return digest.hexdigest()


def chunks_of(source: ImageSource) -> list[np.ndarray]:
    """Its indices, in pieces that fit into memory."""
    height, width = source.image_size
    size = min(1024, max(16, 2**24 // (height * width)))
    return [np.arange(start, min(start + size, len(source))) for start in range(0, len(source), size)]


def _write(
    folder: Path,
    source: ImageSource,
    extractor: FeatureExtractor,
    about: dict[str, str],
    progress: Callable[[int, int], None] | None,
    batch_size: int | None,
) -> None:
    folder.mkdir()
    files: dict[str, np.memmap] = {}
    for rows in chunks_of(source):
        features = extractor(source.images(rows), batch_size)
        for name in PARTS:
            part = getattr(features, name)
            if part is None:
                continue
            if name not in files:
                shape = (len(source), *part.shape[1:])
                files[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
            files[name][rows[0] : rows[-1] + 1] = part
        if progress is not None:
            progress(int(rows[-1]) + 1, len(source))
    for file in files.values():
        file.flush()
    hashes = {name: _file_hash(folder / f"{name}.npy") for name in files}
    (folder / MANIFEST).write_text(json.dumps({"of": about, "sha256": hashes}, indent=2) + "\n", encoding="utf-8")


def _read(place: Path, about: dict[str, str], n: int) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, mapped; None if they are not there, or not what was written."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        arrays = {}
        for name, digest in manifest["sha256"].items():
            if name not in PARTS or _file_hash(place / f"{name}.npy") != digest:
                return None
            arrays[name] = np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        good = all(a.dtype == np.float32 and a.ndim == 2 and len(a) == n for a in arrays.values())
        return arrays if manifest["of"] == about and "pooled" in arrays and good else None
    return None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
