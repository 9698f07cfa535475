"""Which columns of a table are modelled, and why the others are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np

from bptt.errors import BpttError
from bptt.training.table_rows import TableFile, listed
from bptt.training.times import formats_of

UNNAMED = re.compile(r"|Unnamed: \d+|_duplicated_\d+")
"""Names of columns without one: polars' and pandas' too."""


def require_columns(file: TableFile, roles: Sequence[tuple[str, str]]) -> None:
    """Raise BpttError if a column that is named, and what for, cannot be used."""
    if not len(file.head):
        raise BpttError(f"{file.path} has no rows; expected some to learn from")
    schema = file.kinds
    for name, role in roles:
        if name not in schema:
            lower = {known.lower(): known for known in schema}
            near = difflib.get_close_matches(name.lower(), lower, 1)
            hint = f": did you mean {lower[near[0]]!r}?" if near else ""
            raise BpttError(
                f"{file.path} has no column {name!r} ({role}); it has {names_in(file)}{hint}"
            )
        kind, also = schema[name], "Date" if role == "time" else "Null"
        if not (kind.is_numeric() or str(kind).startswith(("Boolean", "String", also))):
            wanted = "numbers, dates or datetimes" if role == "time" else "numbers"
            raise BpttError(
                f"column {name!r} ({role}) of {file.path} holds {kind}; expected {wanted}"
            )


def names_in(file: TableFile) -> str:
    """Return the names of the first columns, and how many more there are."""
    return listed([repr(name[:40]) for name in file.head.columns[:20]], file.head.width)


def find_target(file: TableFile, taken: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return every column of numbers that is not taken, and why each of the others is left out."""
    left_out, names = {}, file.head.columns
    for k, name in enumerate(names):
        if name not in taken and (reason := _why_not(file, name, is_first=k == 0)):
            left_out[name] = reason
    target = tuple(name for name in names if name not in left_out and name not in set(taken))
    if not target:
        counting = [name for name, reason in left_out.items() if reason in (NO_NAME, COUNTS)]
        hint = f"; to model {counting[0]!r} all the same, name it (--target)" if counting else ""
        if file.layout is not None and file.layout.dialect.header is False:
            hint += ", read without a header (--header)"
        if file.layout is not None and len(names) == 1:
            hint += "; is it another mark that stands between its fields (--separator)?"
        raise BpttError(
            f"{file.path} has no column of numbers left for the target; it has {names_in(file)}"
            f"{hint}"
        )
    return target, left_out


NO_NAME, COUNTS = "has no name", "counts the rows"


def _why_not(file: TableFile, name: str, *, is_first: bool) -> str:
    """Return why a column is no target, or nothing if it is one."""
    kind = file.kinds[name]
    if name not in file.number_columns:
        example = file.examples.get(name)
        if str(kind).startswith("Date") or (example and any(formats_of(example))):
            return f"holds times: --time {name} makes it the time" if name else "holds times"
        if str(kind) == "String" and example is None:
            return "is empty"
        return f"is text, such as {example[:20]!r}" if example else f"holds {kind}"
    if is_first and UNNAMED.fullmatch(name):
        return NO_NAME
    return COUNTS if is_first and _counts_rows(file, name) else ""


def _counts_rows(file: TableFile, name: str) -> bool:
    """Whether the values are 0, 1, 2, … or 1, 2, 3, …, as an index is written."""
    start = 0
    for values in file.numbers([name], {}):
        if start == 0:
            offset = values[0, 0]
        rows = np.arange(start, start + len(values))
        if offset not in (0, 1) or not np.array_equal(values[:, 0], rows + offset):
            return False
        start += len(values)
    return start > 0
