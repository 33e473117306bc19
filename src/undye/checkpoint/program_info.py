"""What an exported program says of itself. No torch here, and nothing that a file could have run or allocated.

One JSON text, the same in both kinds of file: in an .onnx file the metadata property `undye`, in a .pt2 archive of
torch.export the member `extra/undye.json`.
"""

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from undye.config import SCHEMA_VERSION, ModelConfig
from undye.errors import UserError
from undye.structure import structure, unstructure

ProgramKind = Literal["onnx", "torch"]
SUFFIXES: dict[ProgramKind, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""How the files of the programs end."""
KEY, MEMBER = "undye", "undye.json"
LIMIT = 1 << 26
"""Bytes that are read of a description; the longest schedule's takes a third of that."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of a program. A size that is free has a name in place of a number."""

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {' x '.join(map(str, self.shape))}"


@dataclass(frozen=True, kw_only=True)
class ProgramInfo:
    """What a program is: enough to write a sampler around it without undye.

    Attributes:
        undye: the version that wrote it.
        torch: the version of PyTorch that traced it.
        inputs: what it takes, in this order.
        outputs: what it gives, in this order.
        parameters: numbers that were learned.
        model: the model's configuration.
        alpha_bar: of the schedule, T + 1 entries; entry 0 is 1, the data.
    """

    undye: str
    torch: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: int
    model: ModelConfig
    alpha_bar: tuple[float, ...]

    def to_json(self) -> str:
        """One JSON object with the schema's version and the fields."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **unstructure(self)})

    @classmethod
    def from_json(cls, text: bytes, path: Path) -> "ProgramInfo":
        """What `to_json` wrote.

        Raises:
            UserError: if it is damaged, or of another version.
        """
        try:
            data = json.loads(text.decode("utf-8"), parse_constant=_no_number)
            json.dumps(data, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair cannot be shown
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from None
        version = data.pop("schema_version", None) if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{path}: schema version {version!r} is not {SCHEMA_VERSION}: use a newer undye")
        info = structure(cls, data, str(path))
        if len(info.alpha_bar) != info.model.schedule.num_steps + 1:
            raise UserError(f"{path} is damaged: {len(info.alpha_bar)} entries of alpha_bar are not T + 1")
        return info


def is_program(path: Path) -> bool:
    """Whether a file is, by its name, a program: something that undye writes, but does not read back as a model."""
    return path.suffix.lower() in SUFFIXES.values() and path.is_file()


def check_target(to: ProgramKind, out: Path) -> None:
    """Raise a UserError unless a program of this kind can be written to `out`, which must not exist.

    It takes no time: callers ask before they load a model.
    """
    if out.suffix != SUFFIXES[to]:
        raise UserError(f"{out} should end in {SUFFIXES[to]}, as programs of this kind do")
    if out.exists():
        raise UserError(f"{out} exists already: choose another name")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if to == "onnx" and missing:
        raise UserError(f"export to ONNX needs {' and '.join(missing)}: pip install 'undye[onnx]'")


def read_info(path: Path) -> ProgramInfo:
    """What the program in a file is. Its weights are neither read nor checked.

    Raises:
        UserError: if it is damaged, or not of undye's making.
    """
    try:
        text = _onnx_text(path) if path.suffix.lower() == SUFFIXES["onnx"] else _pt2_text(path)
    except Exception as error:  # zipfile raises all sorts for a damaged file, and each of them means just that
        raise _damaged(path, error) from None
    if text is None:
        raise UserError(f"{path} is no program of undye's making, or is cut off: it holds no description of a model")
    return ProgramInfo.from_json(text, path)


def _pt2_text(path: Path) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{MEMBER}")]
        if len(names) != 1:
            return None
        with archive.open(names[0]) as member:
            return _limited(member, LIMIT + 1)


def _onnx_text(path: Path) -> bytes | None:
    """The metadata property `KEY`. The wire format is walked by hand: a library would read gigabytes of weights."""
    with path.open("rb") as file:
        for entry in _fields(file, path.stat().st_size, wanted=14):  # ModelProto.metadata_props
            start = file.tell()
            end = start + entry
            key = [_limited(file, n) for n in _fields(file, end, wanted=1)]
            file.seek(start)
            if key == [KEY.encode()]:
                return next((_limited(file, n) for n in _fields(file, end, wanted=2)), None)
    return None


def _fields(file: IO[bytes], end: int, wanted: int) -> Iterator[int]:
    """Walk the fields of a protobuf message up to the offset `end`; stop at the start of each of number `wanted`.

    Yields:
        the size in bytes of the field's content, which must be text or a message.
    """
    while (at := file.tell()) < end:
        key = _varint(file)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (0, 1, 2, 5):
            raise ValueError(f"no field of protobuf at byte {at}")
        size = _varint(file) if wire in (0, 2) else {1: 8, 5: 4}[wire]
        after = file.tell() + (0 if wire == 0 else size)
        if after > end:
            raise ValueError(f"the field at byte {at} is longer than the file")
        if number == wanted and wire == 2:
            yield size
        file.seek(after)


def _varint(file: IO[bytes]) -> int:
    """A number of 7 bits in each byte, the lowest first; the top bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut off")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number is too long")


def _limited(file: IO[bytes], size: int) -> bytes:
    data = file.read(min(size, LIMIT + 1))
    if len(data) > LIMIT:
        raise ValueError("its description is too long")
    return data


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): export the model again")
