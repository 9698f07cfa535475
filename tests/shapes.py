"""The checks of shapes in annotations, made once for a function that is defined at every call."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import jaxtyping

Decorate = Callable[[Any], Any]


def check_inner_functions_quickly() -> None:
    """Let jaxtyping compile its checks of an inner function once, and not at every call around it.

    That took half of the time of the tests. The checks are the same.
    """
    jaxtyped = jaxtyping.jaxtyped
    made: dict[types.CodeType, Callable[[types.FunctionType], Any]] = {}

    def decorator(*args: Any, **how: Any) -> Any:
        if args:
            return jaxtyped(*args, **how)
        decorate = jaxtyped(**how)

        def once(function: Any) -> Any:
            if not isinstance(function, types.FunctionType) or not function.__closure__:
                return decorate(function)
            if function.__code__ not in made:
                made[function.__code__] = _for_any_closure(function, decorate)
            return made[function.__code__](function)

        return once

    jaxtyping.jaxtyped = decorator  # where the import hook looks for it


def _for_any_closure(first: types.FunctionType, decorate: Decorate) -> Decorate:
    """Return what checks functions of the same code, whatever they close over."""
    called = threading.local()

    def call_it(*args: Any, **named: Any) -> Any:
        return called.function(*args, **named)

    # Among the names of the function's own module, by which its annotations are read.
    indirect = types.FunctionType(
        call_it.__code__, first.__globals__, first.__name__, None, call_it.__closure__
    )
    checked = decorate(functools.update_wrapper(indirect, first))

    def bind(function: types.FunctionType) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            called.function = function
            return checked(*args, **named)

        return call

    return bind
