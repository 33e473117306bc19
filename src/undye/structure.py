"""Plain data (JSON, TOML) to dataclasses and back: strict about names and types, with errors that name the place."""

import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from undye.errors import UserError

T = TypeVar("T")


def unstructure(value: Any) -> Any:
    """Dataclasses to dicts, tuples to lists, paths to strings; the rest as it is."""
    if is_dataclass(value):
        return {f.name: unstructure(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [unstructure(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def structure(cls: type[T], data: Any, where: str, base: T | None = None) -> T:
    """Build `cls` from `data`; fields that `data` does not name come from `base`, else from their defaults.

    Raises:
        UserError: naming `where` and the key, for an unknown key, a missing one, or a value of the wrong type.
    """
    return cast(T, _structure(cls, data, where, base))


def _structure(kind: Any, data: Any, where: str, base: Any = None) -> Any:
    if is_dataclass(kind):
        return _dataclass(cast(type, kind), data, where, base)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(args, data, where, base)
    if origin is Literal:
        # True == 1 == 1.0, but only one of them is what was asked for
        if not any(data == a and type(data) is type(a) for a in args):
            raise UserError(f"{where}: {_shown(data)} is not one of {', '.join(map(str, args))}")
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise UserError(f"{where}: expected a list, got {_shown(data)}")
        inner = [args[0]] * len(data) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(data):
            raise UserError(f"{where}: expected {len(inner)} entries, got {len(data)}")
        return tuple(_structure(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, data, strict=True)))
    if kind is Path and isinstance(data, str):
        return Path(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise UserError(f"{where}: {_shown(data)} is too large a number") from None
    if kind is Any or (isinstance(data, kind) and not (kind is int and isinstance(data, bool))):
        return data
    raise UserError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {_shown(data)}")


def _dataclass(cls: type, data: Any, where: str, base: Any) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a table of settings, got {_shown(data)}")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(data) - set(known)):
        raise UserError(f"{where}: unknown setting {_shown(unknown[0])}; known are {', '.join(known)}")
    values = {}
    for name, f in known.items():
        inherited = getattr(base, name) if base is not None else None
        if name in data:
            values[name] = _structure(hints[name], data[name], f"{where}.{name}", inherited)
        elif base is not None:
            values[name] = inherited
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: setting {name!r} is missing")
    return cls(**values)


def _union(kinds: tuple[Any, ...], data: Any, where: str, base: Any) -> Any:
    if data is None and type(None) in kinds:
        return None
    choices = [k for k in kinds if k is not type(None)]
    if isinstance(data, dict) and len(choices) > 1 and all(is_dataclass(k) for k in choices):
        # dataclasses of a union carry their name in the field `kind`; a table without one keeps the base's class
        by_kind = {get_args(get_type_hints(k)["kind"])[0]: k for k in choices}
        default = next((name for name, k in by_kind.items() if type(base) is k), None)
        name = data.get("kind", default)
        if not isinstance(name, str) or name not in by_kind:
            raise UserError(f"{where}.kind: {_shown(name)} is not one of {', '.join(by_kind)}")
        chosen = by_kind[name]
        return _dataclass(chosen, data, where, base if type(base) is chosen else None)
    for kind in choices[:-1]:
        try:
            return _structure(kind, data, where, base)
        except UserError:
            continue
    return _structure(choices[-1], data, where, base)


def _shown(data: Any) -> str:
    """A value in an error message: a strange file's may be as long as the file."""
    text = repr(data)
    return text if len(text) <= 200 else f"{text[:200]}..."
