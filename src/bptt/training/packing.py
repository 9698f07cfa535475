"""Nested states, such as an optimizer's, as named tensors and plain values: without pickle.

A state is a dict, list or tuple of tensors, numbers, texts, None, and of more of these. Tensors go
into a safetensors file by number, all else into its notes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from bptt.errors import BpttError, shown

MOST_DEEP = 40


def pack(state: Any, source: str) -> tuple[dict[str, Tensor], Any]:
    """Return a state's tensors by name, and the rest as what JSON can hold.

    source: what to call it where it has something else in it.

    >>> import torch
    >>> pack({"a": (1, torch.ones(2)), 3: math.inf}, "it")[1]
    {'dict': [['a', {'tuple': [1, {'tensor': '0'}]}], [3, {'float': 'inf'}]]}
    """
    tensors: dict[str, Tensor] = {}
    places = set[int]()

    def packed(value: Any, depth: int = 0) -> Any:
        if depth > MOST_DEEP:
            raise BpttError(f"{source} is nested more than {MOST_DEEP} deep; expected less")
        if isinstance(value, Tensor):
            name, is_shared = str(len(tensors)), value.data_ptr() in places
            tensors[name] = value.detach().clone() if is_shared else value.detach()
            places.add(value.data_ptr())
            return {"tensor": name}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
            return {"dict": [[key, packed(part, depth + 1)] for key, part in value.items()]}
        if type(value) in (list, tuple):
            return {type(value).__name__: [packed(part, depth + 1) for part in value]}
        raise BpttError(
            f"{source} has {shown(value)} in it, which a checkpoint cannot hold; expected tensors, "
            "numbers, texts, and lists, tuples and dicts of these"
        )

    return tensors, packed(state)


def unpack(tensors: dict[str, Tensor], notes: Any, source: str) -> Any:
    """Return the state that `pack` was given, or raise BpttError if these are not of one."""
    unread = set(tensors)

    def unpacked(value: Any, depth: int = 0) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict) and len(value) == 1 and depth <= MOST_DEEP:
            ((kind, inside),) = value.items()
            if kind == "tensor" and isinstance(inside, str) and inside in unread:
                unread.remove(inside)
                return tensors[inside]
            if kind == "float" and inside in ("inf", "-inf", "nan"):
                return float(inside)
            if kind == "dict" and isinstance(inside, list) and all(map(_is_item, inside)):
                return {key: unpacked(part, depth + 1) for key, part in inside}
            if kind in ("list", "tuple") and isinstance(inside, list):
                parts = [unpacked(part, depth + 1) for part in inside]
                return parts if kind == "list" else tuple(parts)
        raise BpttError(f"{source} is damaged: it has {shown(value)} where a state should be")

    state = unpacked(notes)
    if unread:
        raise BpttError(f"{source} is damaged: it has a tensor {min(unread)} that is of no state")
    return state


def _is_item(pair: object) -> bool:
    """Return whether this is a key and a value."""
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (int, str)
