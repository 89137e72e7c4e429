"""Frozen dataclasses to strict JSON and back.

Every run folder holds the configuration that made it. Reading is strict: an unknown, missing or wrongly typed field is an error that names it.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Turn a configuration (nested dataclasses, tuples, paths, scalars) into plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    return value


def from_json(kind: type[T], value: Any, where: str = "config") -> T:
    """Build an instance of the dataclass `kind` from JSON values; raises `ValueError` naming the field that does not fit."""
    return typing.cast(T, _read(kind, value, where))


def digest(value: Any) -> str:
    """SHA-256 (hex) of a configuration or of any JSON value, independent of key order."""
    plain = to_json(value)
    if (odd := _not_finite(plain)) is not None:
        raise ValueError(f"--{odd.removeprefix('config.').replace('_', '-')} must be a finite number")
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _not_finite(value: Any, where: str = "") -> str | None:
    """Where in a JSON value a number is NaN or infinite; None where all are finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return where
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = (_not_finite(v, f"{where}.{k}".lstrip(".") if isinstance(value, dict) else where) for k, v in inner)
    return next((f for f in found if f is not None), None)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines ``field: old -> new`` for every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), value, where)
    if origin is Literal:
        return _expect(value in get_args(kind), value, where, f"one of {', '.join(map(str, get_args(kind)))}")
    if origin is tuple:
        return _read_tuple(get_args(kind), value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, where)
    if kind is Path:
        return Path(_expect(isinstance(value, str), value, where, "a path"))
    if kind is float:
        return float(_expect(isinstance(value, int | float) and not isinstance(value, bool), value, where, "a number"))
    if kind is int:
        return _expect(isinstance(value, int) and not isinstance(value, bool), value, where, "a whole number")
    if kind is type(None):
        return _expect(value is None, value, where, "null")
    assert kind in (str, bool), f"no reader for {kind} at {where}"
    return _expect(isinstance(value, kind), value, where, kind.__name__)


def _expect(fits: bool, value: Any, where: str, wanted: str) -> Any:
    if not fits:
        raise ValueError(f"{where}: expected {wanted}, found {value!r}")
    return value


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first member that accepts the value; dataclass members tell themselves apart by their ``kind`` field."""
    problems = []
    for kind in kinds:
        try:
            return _read(kind, value, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0])


def _read_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, where, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    _expect(len(value) == len(kinds), value, where, f"{len(kinds)} values")
    return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _read_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, f"the fields of {kind.__name__}")
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    unknown, missing = [k for k in value if k not in names], [n for n in names if n not in value]
    if unknown or missing:
        raise ValueError(f"{where}: unknown fields {unknown}, missing fields {missing}")
    return kind(**{n: _read(hints[n], value[n], f"{where}.{n}") for n in names})
