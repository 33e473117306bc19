"""Many names in little memory: a million short strings of Python's take ten times as much."""

import os
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8


class NameList(Sequence[str]):
    """Names in one run of bytes, and where each of them ends. Names that are no text survive (as `os.fsencode`)."""

    def __init__(self, text: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " n"]) -> None:
        """Takes the arrays as they are.

        Raises:
            ValueError: the ends do not lie in the text, in order.
        """
        if len(ends) and (ends[0] < 0 or ends[-1] != len(text) or (np.diff(ends) < 0).any()):
            raise ValueError("the ends of the names do not fit their text")
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "NameList":
        """The same names."""
        raw = [os.fsencode(name) for name in names]
        ends = np.cumsum(np.fromiter(map(len, raw), dtype=np.int64, count=len(raw)))
        return cls(np.frombuffer(b"".join(raw), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())


class NumberedNames(Sequence[str]):
    """`row 0`, `row 1`, ...: for what has no names of its own."""

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [f"row {i}" for i in self._numbers[index]]
        return f"row {self._numbers[index]}"
