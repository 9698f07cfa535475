"""What we say about bad input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral


class BpttError(ValueError):
    """Bad input: the message names what was got, what is expected and what to do."""


def require_shape(
    name: str, got: Sequence[int], expected: str, sizes: Sequence[int | None]
) -> None:
    """Raise BpttError unless the shape `got` is `sizes`, where None stands for any size.

    >>> require_shape("y", (7, 3), "(T, B)", (None, 3))
    >>> require_shape("y", (7, 2), "(T, B)", (None, 3))
    Traceback (most recent call last):
    ...
    bptt.errors.BpttError: y has shape (7, 2); expected (T, B) = (any, 3)
    """
    fits = len(got) == len(sizes) and all(
        want is None or have == want for have, want in zip(got, sizes, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        shown = f"({wanted},)" if len(sizes) == 1 else f"({wanted})"
        raise BpttError(f"{name} has shape {tuple(got)}; expected {expected} = {shown}")


def require_choice(name: str, got: object, choices: Sequence[str]) -> None:
    """Raise BpttError unless `got` is one of `choices`."""
    if got not in choices:
        raise BpttError(f"{name} is {got!r}; expected one of {', '.join(map(repr, choices))}")


def require_whole(name: str, got: object, least: int, most: int | None = None) -> None:
    """Raise BpttError unless `got` is a whole number from `least` to `most`."""
    whole = isinstance(got, Integral) and not isinstance(got, bool)
    if not whole or got < least or (most is not None and got > most):  # type: ignore[operator]
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise BpttError(f"{name} is {got!r}; expected a whole number {span}")


def require_memory(what: str, needed: int) -> None:
    """Raise BpttError if `needed` bytes are more than this machine has."""
    if not hasattr(os, "sysconf"):  # Windows; there the allocation itself will fail
        return
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > has:
        raise BpttError(
            f"{what} would take {needed / 1e9:,.0f} GB; this machine has {has / 1e9:,.0f} GB: "
            "choose smaller sizes"
        )
