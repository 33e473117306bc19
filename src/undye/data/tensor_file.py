"""Arrays in one file, in the safetensors format: a JSON header, then the plain bytes. Mapped, not read; never a pickle.

Written in one pass, the header last: a reserve in front is filled in when the sizes are known. `safetensors` itself
reads these files too; reading is done here because numpy can map what it would copy.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from undye.errors import UserError

_TYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64}
_NAMES = {np.dtype(t): name for name, t in _TYPES.items()}
_MAX_HEADER = 100_000_000  # the format's own limit
_PAGE = 4096


class TensorWriter:
    """Writes arrays one after another, each in as many pieces as is convenient.

    Attributes:
        hash: sha256 of all bytes after the header, so far.
    """

    def __init__(self, path: Path, reserve: int = _PAGE) -> None:
        """Begins the file.

        Args:
            path: the file, which is overwritten.
            reserve: the most bytes that the header may need; rounded up to whole pages.
        """
        import hashlib

        self._reserve = -(-(reserve + 8) // _PAGE) * _PAGE
        self._file = path.open("wb")
        self._file.seek(self._reserve)
        self._entries: dict[str, Any] = {}
        self._at = 0
        self.hash = hashlib.sha256()

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """More bytes of the array that `finish` will name."""
        block = np.ascontiguousarray(rows).data.cast("B") if rows.size else b""
        self._file.write(block)
        self.hash.update(block)
        self._at += len(block)

    def finish(self, name: str, dtype: type, shape: tuple[int, ...]) -> None:
        """Names what was appended since the last call; pads to eight bytes, so that every array is aligned.

        Raises:
            ValueError: the bytes are not that many.
        """
        start = max((entry["data_offsets"][1] for entry in self._entries.values()), default=0)
        if self._at - start != int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
            raise ValueError(f"{name}: {self._at - start} bytes are not of shape {shape}")
        self._entries[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": shape, "data_offsets": (start, self._at)}
        if filler := -self._at % 8:  # the format allows no holes: the filler is an array too
            self.append(np.zeros(filler, dtype=np.uint8))
            self.finish(f"_{name}", np.uint8, (filler,))

    def add(self, name: str, array: np.ndarray) -> None:
        """A whole array."""
        self.append(array)
        self.finish(name, array.dtype.type, array.shape)

    def close(self, metadata: Mapping[str, str]) -> None:
        """Writes the header.

        Raises:
            ValueError: it does not fit into the reserve.
        """
        text = json.dumps({"__metadata__": dict(metadata), **self._entries}).encode()
        if len(text) > self._reserve - 8:
            raise ValueError("the header is larger than its reserve")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._reserve - 8) + text.ljust(self._reserve - 8))
        self._file.close()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """A whole file at once."""
    text = sum(len(key) + 2 * len(value) for key, value in metadata.items())
    with TensorWriter(path, 4096 + 6 * text + 300 * len(tensors)) as writer:
        for name, array in tensors.items():
            writer.add(name, array)
        writer.close(metadata)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, mapped read-only, and the metadata.

    Raises:
        UserError: not such a file, damaged, or cut short.
        OSError: it cannot be opened.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError("not a tensor file, or cut short")
            header = json.loads(file.read(length).decode())
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise ValueError("metadata that is no text")
        tensors, spans = {}, []
        for name, entry in header.items():
            tensors[name], span = _mapped(path, 8 + length, size, entry)
            spans.append(span)
        at = 0
        for start, end in sorted(spans):
            if start != at:
                raise ValueError("arrays that overlap or leave holes")
            at = end
        if 8 + length + at != size:
            raise ValueError(f"{size:,} bytes, not the {8 + length + at:,} that its header says: cut short?")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, OverflowError, RecursionError) as error:
        raise UserError(f"{path.name} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    return tensors, metadata


def _mapped(path: Path, base: int, size: int, entry: dict[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    dtype = np.dtype(_TYPES[entry["dtype"]])
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, end]
    if not all(type(v) is int and 0 <= v <= 2**62 for v in numbers) or not 1 <= len(shape) <= 8:
        raise ValueError("a shape or offset that is none")
    count = 1
    for length in shape:  # in Python's integers, which do not wrap around
        count *= length
    if end - start != count * dtype.itemsize or base + end > size:
        raise ValueError(f"an array of shape {shape} in {end - start:,} bytes")
    if count == 0:
        return np.empty(shape, dtype=dtype), (start, end)
    return np.memmap(path, dtype=dtype, mode="r", offset=base + start, shape=tuple(shape)), (start, end)
