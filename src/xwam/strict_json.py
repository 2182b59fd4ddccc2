"""Dataclasses as JSON, strictly, both ways: an unknown or missing key is refused, with a suggestion."""

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


def to_json(settings: Any) -> str:
    """A dataclass as JSON text, ending in a newline."""
    return json.dumps(dataclasses.asdict(settings), indent=2) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """The inverse of to_json. Raises ValueError naming the key, what is allowed and what to do."""
    return _build(cls, json.loads(text), cls.__name__)


def load(cls: type[T], path: Path) -> T:
    """Read a dataclass from a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; a {cls.__name__} in JSON is expected there.")
    try:
        return from_json(cls, path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def suggest(name: str, allowed: "typing.Iterable[str]") -> str:
    """The end of an error message about a wrong name: the nearest right ones, then all of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}allowed: {', '.join(allowed)}."


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into a value of type ``kind``, strictly."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{where}={value!r}: {suggest(str(value), map(str, inner))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _build(next(k for k in inner if k is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}={value!r}: must be a list.")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise ValueError(f"{where}={value!r}: must have {len(kinds)} entries.")
        return tuple(_build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}={value!r}: must be of type {kind.__name__}.")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}={value!r}: must be an object with the keys of {kind.__name__}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            raise ValueError(f"{where} has the unknown key {key!r}: {suggest(key, fields)}")
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: add it.")
    return kind(**{name: _build(hints[name], v, f"{where}.{name}") for name, v in value.items()})
