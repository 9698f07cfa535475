"""Which columns of a table are modelled, and why the others are not."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bptt.data.blocks import blocks_of
from bptt.data.tables.table_rows import TableFile, listed
from bptt.data.tables.times import TimeFormats, formats_of, read_times
from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl

UNNAMED = re.compile(r"|Unnamed: \d+|_duplicated_\d+")
"""Names of columns without one: polars' and pandas' too."""


CLASSES = ("Categorical", "Enum", "Date", "Null")
ALSO = {"time": ("Date",), "categories": CLASSES, "series": CLASSES, "label": CLASSES}
WANTED = {
    "time": "numbers, dates or datetimes",
    "categories": "texts or numbers",
    "series": "texts or numbers",
    "label": "texts or numbers",
}
"""What columns of a role hold besides numbers and texts, and what to call that."""


def require_columns(file: TableFile, roles: Sequence[tuple[str, str]]) -> None:
    """Raise BpttError if a column that is named, and what for, cannot be used."""
    if not len(file.head):
        raise BpttError(f"{file.source} has no rows; expected some to learn from")
    schema = file.kinds
    for name, role in roles:
        if name not in schema:
            lower = {known.lower(): known for known in schema}
            near = difflib.get_close_matches(name.lower(), lower, 1)
            hint = f": did you mean {lower[near[0]]!r}?" if near else ""
            raise BpttError(
                f"{file.source} has no column {name!r} ({role}); it has {names_in(file)}{hint}"
            )
        kind, also = schema[name], ALSO.get(role, ("Null",))
        if not (kind.is_numeric() or str(kind).startswith(("Boolean", "String", *also))):
            wanted = WANTED.get(role, "numbers")
            raise BpttError(
                f"column {name!r} ({role}) of {file.source} holds {kind}; expected {wanted}"
            )


def names_in(file: TableFile) -> str:
    """Return the names of the first columns, and how many more there are."""
    return listed([repr(name[:40]) for name in file.head.columns[:20]], file.head.width)


def numbers_left(
    file: TableFile, taken: Sequence[str], role: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return every column of numbers that is not taken, and why each of the others is left out.

    role: what they are for.
    """
    left_out, names = {}, file.head.columns
    for k, name in enumerate(names):
        if name not in taken and (reason := _why_not(file, name, is_first=k == 0)):
            left_out[name] = reason
    left = tuple(name for name in names if name not in left_out and name not in set(taken))
    if not left:
        raise no_numbers(file, left_out, role)
    return left, left_out


def no_numbers(file: TableFile, left_out: dict[str, str], role: str) -> BpttError:
    """Return what to raise where no column is left for a role, with the reason for each."""
    counting = [name for name, why in left_out.items() if why == NO_NAME or COUNTS in why]
    hint = f"; to take {counting[0]!r} all the same, name it (--{role})" if counting else ""
    if file.layout is not None and file.layout.dialect.header is False:
        hint += ", read without a header (--header)"
    if file.layout is not None and file.head.width == 1:
        hint += "; is it another mark that stands between its fields (--separator)?"
    columns = [
        f"{name[:40]!r} ({left_out.get(name, 'is named for something else')})"
        for name in file.head.columns[:SHOWN]
    ]
    return BpttError(
        f"{file.source} has no column of numbers left for the {role}; it has "
        f"{listed(columns, file.head.width)}{hint}"
    )


def constant_columns(names: Sequence[str], values: np.ndarray) -> dict[str, str]:
    """Return which columns have the same value in all rows where they have one, and that value."""
    low = np.full(len(names), np.nan)
    high = low.copy()
    for _, block in blocks_of(values[:, : len(names)]):
        low = np.fmin(low, np.fmin.reduce(block, axis=0))
        high = np.fmax(high, np.fmax.reduce(block, axis=0))
    return {
        name: f"is {a:g} in every row"
        for name, a, b in zip(names, low.tolist(), high.tolist(), strict=True)
        if a == b and np.isfinite(a)
    }


SHOWN = 4
NO_NAME, COUNTS = "has no name", "rises by 1 from row to row"


def _why_not(file: TableFile, name: str, *, is_first: bool) -> str:
    """Return why a column is no target, or nothing if it is one."""
    kind = file.kinds[name]
    if name not in file.number_columns:
        example = file.examples.get(name)
        if str(kind).startswith("Date") or (example and any(formats_of(example))):
            return f"holds times{_time_hint(file, name)}"
        if str(kind) == "Null" or (str(kind) == "String" and example is None):
            return "is empty"
        return f"is text, such as {example[:20]!r}" if example else f"holds {kind}"
    if is_first and UNNAMED.fullmatch(name):
        return NO_NAME
    return f"{COUNTS}{_time_hint(file, name)}" if is_first and _counts_rows(file, name) else ""


def _time_hint(file: TableFile, name: str) -> str:
    """Say how a column becomes the time, and whether the first rows are not sorted by it.

    Without a time rows are taken as they stand: one with the latest first is learnt backwards.
    """
    if not name.isprintable() or not name:
        return ""
    option = f"--time{'=' if name.startswith('-') else ' '}{shlex.quote(name)}"
    note = ", by which the rows are not sorted" if _falls(file, name) else ""
    return f"{note}: {option} makes it the time"


def _falls(file: TableFile, name: str) -> bool:
    """Whether the first times of a column do not rise, however they are read."""
    head = file.head[name]
    if not str(head.dtype).startswith(("Date", "String")):
        return False
    if str(head.dtype) == "String":
        texts = next(file.column(name)).head(len(head)).drop_nulls()
        forms = TimeFormats.of([texts]).forms
        return bool(forms) and all(_is_unsorted(read_times(texts, form)) for form in forms)
    return _is_unsorted(head)


def _is_unsorted(times: pl.Series) -> bool:
    return not times.drop_nulls().is_sorted()


def _counts_rows(file: TableFile, name: str) -> bool:
    """Whether the values are 0, 1, 2, …, as an index is written, or go on so from another one."""
    start = 0
    for values in file.numbers([name], {}):
        if start == 0:
            offset = values[0, 0]
        rows = np.arange(start, start + len(values))
        if offset % 1 or not np.array_equal(values[:, 0], rows + offset):
            return False
        start += len(values)
    return start > 1
