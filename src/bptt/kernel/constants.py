"""What a function reads besides its arguments, as a value that changes when any of that does.

A program is traced once, with the numbers that its step reads: of enclosing functions, of modules,
of objects, of defaults. They are looked at again at every call, so that none is run that is stale.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, enum.Enum)
PACKAGES = ("bptt.", "torch.", "numpy.", "math.", "builtins.")
"""Modules whose functions read nothing that changes."""


def constants_of(function: Any) -> Hashable:
    """Return what a function reads besides its arguments, such that equal is unchanged."""
    return None if _is_of_a_package(function) else _Walk().function(function)


def constants_of_instance(kind: type, attributes: Mapping[str, Any]) -> Hashable:
    """Return what an object's attributes and its classes' are, and what their methods read."""
    walk = _Walk()
    classes = [one for one in kind.__mro__ if not _is_of_a_package(one)]
    return walk.value(attributes), *(
        (name, walk.value(attribute)) for one in classes for name, attribute in vars(one).items()
    )


def _is_of_a_package(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return f"{name}.".startswith(PACKAGES)


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Return every name that code reads, and the code inside it."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *(n for c in inner for n in _names(c))]))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the enclosing function has not set it
        return None


class _Walk:
    """One look at all that a function reads, at each object once."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def function(self, function: Any) -> Hashable:
        """Return a function's code, and what it reads."""
        if isinstance(function, MethodType):
            return self.value(function.__self__), self.function(function.__func__)
        if not isinstance(function, FunctionType):
            return id(function)
        names = _names(function.__code__)
        outside = [function.__globals__[name] for name in names if name in function.__globals__]
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return function.__code__, *self.values([*outside, *cells, *defaults], names)

    def values(self, values: Iterable[Any], names: tuple[str, ...] = ()) -> list[Hashable]:
        """Return several values; names: those that are looked for in modules."""
        return [self.value(value, names) for value in values]

    def value(self, value: Any, names: tuple[str, ...] = ()) -> Hashable:
        """Return what of a value can change."""
        if isinstance(value, PLAIN):
            return type(value), repr(value)  # NaN equals itself so, and 1 is not 1.0
        if id(value) in self.seen:
            return self.seen[id(value)]
        self.seen[id(value)] = len(self.seen)
        inside = self._inside(value, names)
        return (id(value) if inside is None else type(value)), inside

    def _inside(self, value: Any, names: tuple[str, ...]) -> Hashable:  # noqa: PLR0911
        """Return what lies in a value, or None where nothing does that could be looked at."""
        if isinstance(value, Tensor | type) or _is_of_a_package(value):
            return None  # a tensor that a step is not made of is refused when it is traced
        if isinstance(value, FunctionType | MethodType):
            return self.function(value)
        if isinstance(value, ModuleType):
            read = [name for name in names if name in vars(value)]
            return tuple(self.values(map(vars(value).__getitem__, read), names))
        if isinstance(value, Mapping):
            return tuple(map(repr, value)), *self.values(value.values())
        if isinstance(value, list | tuple | set | frozenset):
            return tuple(self.values(value))
        if hasattr(value, "tobytes"):
            return bytes(value.tobytes())
        slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
        attributes = {
            name: getattr(value, name, None)
            for several in slots
            for name in ((several,) if isinstance(several, str) else several)
        }
        attributes |= getattr(value, "__dict__", {})
        return (tuple(attributes), *self.values(attributes.values())) if attributes else None
