"""Plain values, as JSON has them, into dataclasses, checked by the types of their fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union

from bptt.errors import BpttError

T = TypeVar("T")
LONGEST = 60
"""Characters of a value that are shown."""
NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    type(None): "null",
}


class WrongTypeError(Exception):
    """A value is not of the type that is asked for; the message says which, and what it is."""


def as_dataclass(kind: type[T], value: object, source: str) -> T:
    """Return a dataclass with the values of a JSON object, lists made tuples where fields are.

    BpttError is raised, with `source` in front, unless the object has all fields that have no
    default, and no others, each of its type; or where the class itself refuses them.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Point:
    ...     x: float
    ...     names: tuple[str, ...] = ()
    >>> as_dataclass(Point, {"x": 1, "names": ["a"]}, "point.json")
    Point(x=1.0, names=('a',))
    >>> as_dataclass(Point, {"x": "1"}, "point.json")
    Traceback (most recent call last):
    ...
    bptt.errors.BpttError: point.json has x: "1"; expected a number
    """
    try:
        return _dataclass(kind, value, "")
    except WrongTypeError as error:
        raise BpttError(f"{source} has {error}") from None
    except BpttError as error:
        raise BpttError(f"{source}: {error}") from None


def _dataclass(kind: type[T], value: object, at: str) -> T:
    if not isinstance(value, dict):
        raise _wrong(at, value, "an object")
    types_of = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    prefix = f"{at}." if at else ""
    if unknown := sorted(set(value) - set(known)):
        raise WrongTypeError(f"{prefix}{unknown[0]}, which is unknown")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise WrongTypeError(f"no {prefix}{name}; expected {_words(types_of[name])}")
    return kind(**{name: _typed(types_of[name], one, prefix + name) for name, one in value.items()})


def _typed(kind: Any, value: object, at: str) -> Any:
    """Return a value of a type, or raise WrongTypeError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, at)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in arguments):
            raise _wrong(at, value, _words(kind))
        return value
    if origin in (tuple, list):
        return _several(kind, value, at)
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass(kind, value, at)
    return _simple(kind, value, at)


def _simple(kind: Any, value: object, at: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong(at, value, "a number that a float can hold") from None
    if type(value) is not kind:
        raise _wrong(at, value, _words(kind))
    return value


def _one_of(kinds: tuple[Any, ...], value: object, at: str) -> Any:
    """Return a value of one of several types; a whole number stays one where that is allowed."""
    first: WrongTypeError | None = None
    for kind in sorted(kinds, key=lambda kind: kind is float):
        try:
            return _typed(kind, value, at)
        except WrongTypeError as error:
            # Of a wrong part within an object the part is named, not the object.
            first = first or (error if isinstance(value, dict | list) else None)
    raise first or _wrong(at, value, " or ".join(map(_words, kinds)))


def _several(kind: Any, value: object, at: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if not isinstance(value, list):
        raise _wrong(at, value, _words(kind))
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(at, value, _words(kind))
        pairs = zip(arguments, value, strict=True)
        return tuple(_typed(one, part, f"{at}[{i}]") for i, (one, part) in enumerate(pairs))
    parts = (_typed(arguments[0], part, f"{at}[{i}]") for i, part in enumerate(value))
    return origin(parts)


def _wrong(at: str, value: object, wanted: str) -> WrongTypeError:
    shown = _shown(value)
    return WrongTypeError(f"{at}: {shown}; expected {wanted}" if at else f"{shown} for {wanted}")


def _shown(value: object) -> str:
    """Return a value as JSON has it, or the beginning of it."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**LONGEST:  # longer ones are not even printed
        return "a number of many digits"
    names: Mapping[object, str] = {None: "null", True: "true", False: "false"}
    text = names[value] if value is None or isinstance(value, bool) else str(value)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f'"{text}"' if isinstance(value, str) else text


def _words(kind: Any) -> str:
    """Return what a type is called in a message."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}"
    if origin in (tuple, list):
        return "a list"
    return NAMES.get(kind, "an object")
