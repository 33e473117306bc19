"""What another project's file of weights holds, read without running anything in it: torch.save's, or safetensors.

Wrappers of modules put their own name before those of the weights: `module.` (DataParallel) and `_orig_mod.`
(torch.compile) are taken off here, so that no reader has to know of them.
"""

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from undye.errors import UserError

DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.int64,
          torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}  # fmt: skip
"""Numbers that torch can compute with; of those with fewer bits it knows little more than the name."""
DEPTH = 2
"""Containers in one another in which names are looked for: a file's, and the state dicts in it."""


def read_content(path: Path) -> Any:
    """What a file of weights holds, with names that no wrapper has prefixed.

    Raises:
        UserError: if it is damaged, of another kind, or holds anything but tensors and plain data.
    """
    read = read_safetensors if _is_safetensors(path) else read_pickle
    return without_prefixes(read(path), path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of another project's safetensors file.

    Raises:
        UserError: if it is damaged, or part of an undye checkpoint, whose configuration lies beside it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            own = "undye" in (file.metadata() or {})
        tensors = {} if own else load_file(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except Exception as error:  # safetensors and torch raise all sorts for a damaged file
        raise _damaged(path, "no safetensors file", error) from None
    if own:
        raise UserError(f"{path} is the weights of an undye checkpoint: give the folder that it is in")
    return tensors


def read_pickle(path: Path) -> Any:
    """What a file of torch.save holds, read with weights_only: nothing in it is run.

    Raises:
        UserError: if it is damaged, or holds anything but tensors and plain data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about the protocol of what then turns out to be damaged
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except MemoryError:
        raise UserError(f"{path} claims to be larger than the memory: it is damaged") from None
    except Exception as error:  # torch raises all sorts for a damaged file, and each of them means just that
        if isinstance(error, pickle.UnpicklingError) and (asked := _refused(str(error))):
            raise UserError(
                f"{path} holds more than tensors and plain data, and is not read: it asks for {asked} (save the "
                "state dict alone)"
            ) from None
        raise _damaged(path, "no file of torch.save", error) from None


def read_json(path: Path) -> Any:
    """The content of another project's JSON file.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the folder is incomplete") from None
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path, "no JSON", error) from None


def state_dict_of(data: Any, path: Path) -> dict[str, Tensor]:
    """What a file holds, or a part of that, as named tensors.

    Raises:
        UserError: if it is anything else, with the name of what is no tensor.
    """
    rule = f"{path} is no state dict, which holds named tensors and nothing else"
    if not isinstance(data, dict):
        raise UserError(f"{rule}: it is of type {type(data).__name__}")
    for name, tensor in data.items():
        if not isinstance(name, str):
            raise UserError(f"{rule}: one of its names is of type {type(name).__name__}")
        if not isinstance(tensor, Tensor):
            raise UserError(f"{rule}: {name!r} is of type {type(tensor).__name__}")
        if not _is_plain(tensor):
            raise UserError(f"{path}: weight {name!r} is no plain array of numbers")
    return data


def without_prefixes(content: Any, path: Path, depth: int = DEPTH) -> Any:
    """The same content with the weights' own names.

    Raises:
        UserError: for a name that is there twice then.
    """
    if depth and isinstance(content, list):
        return [without_prefixes(part, path, depth - 1) for part in content]
    if not depth or not isinstance(content, dict):
        return content
    found: dict[Any, Any] = {}
    for key, part in content.items():
        name = _own_name(key) if isinstance(key, str) else key
        if name in found:
            raise UserError(f"{path}: {name!r} is there twice, with and without the prefix of a wrapper")
        found[name] = without_prefixes(part, path, depth - 1)
    return found


def _own_name(name: str) -> str:
    name = re.sub(r"(^|\.)(_orig_mod\.)+", r"\1", name)
    return re.sub(r"^(module\.)+", "", name)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is stored number by number, of a usual type.

    Not sparse, quantised, nested, elsewhere or blown up from a few.
    """
    if (
        tensor.dtype not in DTYPES
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.is_quantized
        or tensor.is_nested
    ):
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _is_safetensors(path: Path) -> bool:
    """Whether a file is meant to be of safetensors: by its name, or by the JSON after the eight bytes of its length."""
    start = _start(path)
    return path.suffix.lower() == ".safetensors" or (start[8:9] == b"{" and start[:2] not in (b"PK", b"\x80\x02"))


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _refused(message: str) -> str | None:
    """What a pickle asked for that weights_only does not give it; None if it is only damaged."""
    for pattern in (r"GLOBAL (\S+) was not an allowed", r"unsupported GLOBAL (\S+)", r"unrecognized function (.+)",
                    r"forbidden (\S+)", r"module whose .*?(\w+\.\w+)"):  # fmt: skip
        if match := re.search(pattern, message):
            return " ".join(match[1].split())[:100]
    return None


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    """The error for a file that is of no use, saying what it is in truth where that shows."""
    if what := _is_instead(path):
        return UserError(f"{path} is {what}")
    # torch's advice, around the one sentence that says what is wrong, is not to be followed
    text = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2]
    text = re.split(r"\. | Check the documentation", text)[0][:200]
    why = type(error).__name__ + ("" if "weights_only" in text else f": {text}")
    return UserError(f"{path} is damaged, or {kind} ({why}): get it anew")


def _is_instead(path: Path) -> str | None:
    """What people have in place of a model's file, and what to do about it."""
    start = _start(path)
    if not start:
        return "empty: get it anew"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, not the file itself: fetch that with git lfs pull"
    if re.match(rb"\s*<(!doctype html|html)", start, re.IGNORECASE):
        return "a web page, not a model: the download went wrong, get the file itself"
    if _is_torchscript(path):
        return "a TorchScript program: give the state dict, torch.save(model.state_dict(), ...)"
    if start.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", start) and path.suffix.lower() != ".json":
        return "a text file, not a model"
    return None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises all sorts for a damaged file
        return False
