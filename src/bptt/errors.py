"""What we say about bad input."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

MOST_WHOLE = 2**63 - 1
"""The largest whole number that a tensor, a file or a loop can be asked for."""
MOST_LINE = 600
"""Characters of a message; what is longer loses its middle."""


class BpttError(ValueError):
    r"""Bad input: the message names what was got, what is expected and what to do.

    It is one printable line, whatever the names in it: others' control characters are escaped.

    >>> str(BpttError("no column 'a\nb\x1b[31m'"))
    "no column 'a\\nb\\x1b[31m'"
    """

    def __init__(self, message: str) -> None:
        line, half = printable(message), MOST_LINE // 2
        super().__init__(line if len(line) <= MOST_LINE else f"{line[:half]} … {line[-half:]}")


class RankError(BpttError):
    """Another of several processes that train together stopped, and why; all of them know."""


class LostRankError(RankError):
    """Another process is gone, or does not answer."""


class BpttWarning(UserWarning):
    """What went otherwise than asked, and was dealt with."""


def printable(text: object) -> str:
    r"""Return a text with all that is not printable escaped, as terminals obey some of it.

    >>> printable("a\nb\x1b[31m é")
    'a\\nb\\x1b[31m é'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


MOST_SHOWN = 60
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, and cut where it is long.

    >>> shown("ab"), shown([1] * 40), shown(object), len(shown("a" * 1000))
    ("'ab'", 'a list', 'the class object', 61)
    """
    kind = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {kind} of {value.dtype} with shape {_tuple_of(value.shape)}"
    if value is None or isinstance(value, str | int | float | complex):
        text = " ".join(_digits(value).split())
        return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _digits(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not write whole numbers of several thousand digits
        return "a number of thousands of digits"


def _tuple_of(shape: object) -> str:
    return str(tuple(shape)) if isinstance(shape, Sequence) else str(shape)


def counted(count: int, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "row"), counted(2000, "row"), counted(2, "batch")
    ('1 row', '2,000 rows', '2 batches')
    """
    ending = "es" if noun.endswith(("ch", "ss")) else "" if noun.endswith("series") else "s"
    plural = noun + ending
    return f"{count:,} {noun if count == 1 else plural}"


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
    if not isinstance(got, str) or got not in choices:
        raise BpttError(f"{name} is {shown(got)}; expected one of {', '.join(map(repr, choices))}")


def require_whole(name: str, got: object, least: int, most: int | None = None) -> None:
    """Raise BpttError unless `got` is a whole number from `least` to `most`."""
    whole = isinstance(got, Integral) and not isinstance(got, bool)
    if not whole or not least <= got <= (MOST_WHOLE if most is None else most):  # type: ignore[operator]
        is_huge = whole and got > MOST_WHOLE  # type: ignore[operator]
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        span += ", below 2⁶³" if most is None and is_huge else ""
        raise BpttError(f"{name} is {shown(got)}; expected a whole number {span}")


def require_window(window: int | None, stride: int | None) -> None:
    """Raise BpttError unless a gradient can be truncated to this window with this stride."""
    if window is not None:
        require_whole("window", window, 1)
    if stride is not None:
        require_whole("stride", stride, 1)
        if window is None:
            raise BpttError(f"stride is {stride} without a window; expected a window too")
        require_whole("stride", stride, 1, window)


def as_bytes(name: str, got: object) -> int:
    """Return an amount of memory in bytes, or raise BpttError unless it is one, above 0.

    >>> as_bytes("memory", "64MB"), as_bytes("memory", "1.5 GiB"), as_bytes("memory", 4096)
    (64000000, 1610612736, 4096)
    """
    if type(got) is int and 0 < got <= MOST_WHOLE:
        return got
    form = r"\s*(\d+\.?\d*)\s*([KMGT]i?)?B?\s*"
    written = got if isinstance(got, str) and len(got) <= MOST_SHOWN else ""
    if match := re.fullmatch(form, written, re.IGNORECASE):
        number, unit = float(match[1]), (match[2] or "").upper()
        thousand = 1024 if unit.endswith("I") else 1000
        size = number * thousand ** " KMGT".index(unit[:1] or " ")
        if 1 <= size <= MOST_WHOLE:
            return int(size)
    raise BpttError(f"{name} is {shown(got)}; expected bytes, such as 64000000, '64MB' or '2GiB'")


def bytes_as_text(size: int) -> str:
    """Return an amount of memory as people write it.

    >>> bytes_as_text(61_940_000), bytes_as_text(20_442)
    ('61.9 MB', '20.4 kB')
    """
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= worth:
            return f"{size / worth:,.1f} {unit}"
    return counted(size, "byte")


def memory_here() -> int | None:
    """Return how many bytes of memory this machine has, if it says."""
    if not hasattr(os, "sysconf"):  # Windows; there the allocation itself will fail
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(what: str, needed: int) -> None:
    """Raise BpttError if `needed` bytes are more than this machine has."""
    has = memory_here()
    if has is not None and needed > has:
        raise BpttError(
            f"{what} would take {needed // 10**9:,} GB; this machine has {has // 10**9:,} GB: "
            "choose smaller sizes"
        )


def require_kind(name: str, got: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise BpttError unless `got` is an instance of one of `kinds`; expected: that in words.

    >>> require_kind("net", [1], str, "a text")
    Traceback (most recent call last):
    ...
    bptt.errors.BpttError: net is a list; expected a text
    """
    if not isinstance(got, kinds):
        raise BpttError(f"{name} is {shown(got)}; expected {expected}")


def require_number(name: str, got: object, expected: str = "a number") -> None:
    """Raise BpttError unless `got` is a real number, which nan is not, and a float can hold it."""
    if not isinstance(got, Real) or got != got or not _fits_float(got):  # noqa: PLR0124 (nan does)
        raise BpttError(f"{name} is {shown(got)}; expected {expected}")


def _fits_float(number: Real) -> bool:
    try:
        float(number)
    except OverflowError:
        return False
    return True


def require_flag(name: str, got: object) -> None:
    """Raise BpttError unless `got` is True or False."""
    require_kind(name, got, bool, "True or False")


def require_path(name: str, got: object) -> None:
    """Raise BpttError unless `got` can be a path."""
    require_kind(name, got, (str, os.PathLike), "a path")
    if "\0" in str(got):
        raise BpttError(
            f"{name} is {shown(str(got))}, with a NUL character; expected a path without"
        )


def require_callable(name: str, got: object, expected: str) -> None:
    """Raise BpttError unless `got` can be called."""
    if not callable(got):
        raise BpttError(f"{name} is {shown(got)}; expected {expected}")


def require_several(name: str, got: object, expected: str) -> None:
    """Raise BpttError unless `got` is a list, a tuple, or what can be gone over like one."""
    if not isinstance(got, Iterable) or isinstance(got, str | bytes | Mapping):
        raise BpttError(f"{name} is {shown(got)}; expected {expected}")
    if hasattr(got, "shape") and hasattr(got, "dtype"):
        raise BpttError(f"{name} is {shown(got)}; expected {expected}, in a list")
