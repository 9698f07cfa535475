"""Files of tables in, rows of numbers out: CSV or Parquet of any size, by way of polars.

A table goes in blocks of rows into temporary files without a name, which are mapped into memory:
what it takes does not grow with it. (Set TMPDIR if /tmp has little room, or is memory itself.)
"""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl

WRONG = ("text", "infinite", "missing")  # what can be wrong with a value
BLOCK = 1 << 16  # rows at a time
HEAD = 1000  # rows within which a column of a text has to show a number
SEPARATORS = {".csv": ",", ".tsv": "\t"}
WORDS = {
    **dict.fromkeys(("", "NA", "N/A", "null", "None")),  # missing
    **dict.fromkeys(("true", "True", "TRUE"), "1"),
    **dict.fromkeys(("false", "False", "FALSE"), "0"),
}


@dataclass
class WrongRows:
    """Rows where something is wrong, counted from 1: the first five, and how many."""

    example: str
    first: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, start: int, wrong: np.ndarray) -> None:
        """Add those of a block that begins at row `start`, counted from 0."""
        found = np.flatnonzero(wrong)
        self.first += (start + 1 + found[: 5 - len(self.first)]).tolist()
        self.count += len(found)

    def __str__(self) -> str:
        return ("row " if self.count == 1 else "rows ") + listed(self.first, self.count)


Found = dict[tuple[str, str], WrongRows]  # by column and what is wrong with it


@dataclass(frozen=True)
class TableFile:
    """A table as it stands in its file."""

    path: Path
    sha256: str
    frame: pl.LazyFrame
    head: pl.DataFrame  # its first rows

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers: by its type or, in a text, its first value."""
        column = self.head[name]
        if str(column.dtype) != "String":
            return column.dtype.is_numeric() or str(column.dtype) == "Boolean"
        first = _clean(column).drop_nulls().head(1).cast(float, strict=False)
        return _is_text(self.path) and len(first.drop_nulls()) == 1

    def read(
        self, names: Sequence[str], time: str | None
    ) -> tuple[np.ndarray, np.ndarray | None, Found]:
        """Return columns as numbers (N, columns), times (N,), and what is wrong with them.

        Times are float64 or datetime64; what is missing or wrong is NaN, or NaT.
        """
        numbers = dict.fromkeys(names, True)
        if time is not None:
            numbers[time] = self.is_number(time)
        found: Found = {}
        words = spool(_words(self.frame, numbers, found))
        values = words[:, : len(names)].view(np.float64)
        if time is None:
            return values, None, found
        clock = _read(_clean(self.head[time]), numbers[time]).to_numpy().dtype
        return values, words[:, -1].view(clock), found


@contextmanager
def open_table(path: Path) -> Iterator[TableFile]:
    """Open a table, and make one line of what goes wrong in opening or in reading it."""
    try:
        import polars as pl  # noqa: PLC0415 (an extra, slow to import)
    except ImportError:
        hint = "in a checkout of bptt: pip install '.[tables]'"
        raise BpttError(f"polars is not installed; {hint}") from None
    try:
        sha256, frame = _digest(path), _scan(path)
        yield TableFile(path, sha256, frame, frame.head(HEAD).collect())
    except OSError as error:
        raise BpttError(f"cannot read {path}: {error.strerror or error}") from None
    except (pl.exceptions.PolarsError, csv.Error) as error:
        reason = str(error).partition("\n")[0]
        if _is_text(path) and "more fields" in reason:
            raise BpttError(_long_row(path)) from None
        wanted = "a CSV file in UTF-8" if _is_text(path) else "a whole Parquet file"
        raise BpttError(f"cannot read {path}: {reason}; expected {wanted}") from None


def spool(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Write blocks of rows into a temporary file, and map it."""
    count, block = 0, np.empty((0, 1), np.int64)
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
        file.flush()
        shape = (count, *block.shape[1:])
        return np.asarray(np.memmap(file, block.dtype, "r+", shape=shape)) if count else block


def blocks_of(rows: np.ndarray, overlap: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, block) of the rows; each block ends with `overlap` rows of the next one."""
    for start in range(0, len(rows) - overlap, BLOCK):
        yield start, rows[start : start + BLOCK + overlap]


def steps_of(rows: np.ndarray, lost: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, block) of the rows or, with `lost` 1, of the differences between them."""
    for start, block in blocks_of(rows, lost):
        yield start, np.diff(block, axis=0) if lost else block


def fill_gaps(column: np.ndarray, linear: bool) -> None:
    """Put in the place of NaN what is on the line between its neighbours, or the one before."""
    done, last = 0, np.empty(0, np.int64)
    for start, block in blocks_of(column):
        known = np.concatenate([last, start + np.flatnonzero(~np.isnan(block))])
        for at in range(done, known[-1] if len(known) else 0, BLOCK):
            rows = np.arange(at, min(at + BLOCK, known[-1]))
            gaps = rows[np.isnan(column[rows])]
            if linear:
                column[gaps] = np.interp(gaps, known, column[known])
            else:
                column[gaps] = column[known[np.searchsorted(known, gaps) - 1]]
        last = known[-1:]
        done = last[0] if len(last) else 0
    column[done + 1 :] = column[done]


def listed(first: Sequence[object], count: int) -> str:
    """Return the first of `count` things, and how many more there are.

    >>> listed([3, 5], 2), listed([3, 5], 9)
    ('3, 5', '3, 5 and 7 more')
    """
    more = count - len(first)
    return ", ".join(map(str, first)) + (f" and {more} more" if more else "")


def _digest(path: Path) -> str:
    """Return the file's SHA-256, or raise BpttError if it cannot be a table."""
    if path.is_dir():
        raise BpttError(f"{path} is a folder; give the path of a table in it")
    if not path.exists():
        raise BpttError(f"no such file: {path}; give the path of a table")
    if not _is_text(path) and path.suffix.lower() != ".parquet":
        raise BpttError(f"{path} is no table; expected a .csv, .tsv or .parquet file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not file.tell():
            raise BpttError(f"{path} is empty; expected a table with rows to learn from")
    return digest


def _scan(path: Path) -> pl.LazyFrame:
    import polars as pl  # noqa: PLC0415

    if not _is_text(path):
        return pl.scan_parquet(path, glob=False, hive_partitioning=False)
    header = next(filter(None, _lines(path)), [])
    for name in header:
        if name and header.count(name) > 1:
            raise BpttError(f"{path} has {header.count(name)} columns named {name!r}; rename them")
    # Everything as text: polars would guess the types from the first rows, and stop at the others.
    separator = SEPARATORS[path.suffix.lower()]
    frame = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
    blank = _blank_lines(path)
    return frame.head(frame.select(pl.len()).collect().item() - blank) if blank else frame


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in SEPARATORS


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        yield from csv.reader(file, delimiter=SEPARATORS[path.suffix.lower()])


def _long_row(path: Path) -> str:
    lines = _lines(path)
    width = len(next(filter(None, lines)))
    row, fields = next(((r, f) for r, f in enumerate(lines, 1) if len(f) > width), (0, []))
    return f"row {row} of {path} has {len(fields)} fields, under a header of {width}; mend the row"


def _blank_lines(path: Path) -> int:
    """Return how many lines at the end are empty, of each of which polars makes a row."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 4096), 2)
        tail = file.read()
    return max(0, tail[len(tail.rstrip(b"\r\n")) :].count(b"\n") - 1)


def _clean(column: pl.Series) -> pl.Series:
    """Take the words for a missing value out of a text, and put 1 and 0 for those of a boolean."""
    text = str(column.dtype) == "String"
    return column.str.strip_chars().replace(WORDS) if text else column


def _read(column: pl.Series, number: bool) -> pl.Series:
    """Return the column as numbers or as dates, with nothing where that fails."""
    from polars.exceptions import ComputeError  # noqa: PLC0415

    if number:
        return column.cast(float, strict=False)
    if str(column.dtype) != "String":
        return column
    try:
        return column.str.to_datetime(time_unit="us", strict=False)
    except ComputeError:  # there is no date in it
        return column.clear(len(column)).str.to_datetime("%Y", time_unit="us")


def _words(frame: pl.LazyFrame, numbers: dict[str, bool], found: Found) -> Iterator[np.ndarray]:
    """Yield blocks of rows, 8 bytes a value whatever its type, and note what is wrong with them."""
    from polars import selectors  # noqa: PLC0415

    start, frame = 0, frame.select(selectors.by_name(*numbers))  # "*" and "^a$" are names too
    for batch in frame.collect_batches(chunk_size=BLOCK, maintain_order=True):
        words = []
        for name, number in numbers.items():
            clean = _clean(batch[name])
            column = _read(clean, number)
            values, stray = column.to_numpy(), (column.is_null() & clean.is_not_null()).to_numpy()
            wrong = (stray, np.isinf(values), np.isnan(values))
            for what, rows in zip(WRONG, wrong, strict=True):
                if rows.any():
                    example = str(clean[int(rows.argmax())])[:40]
                    found.setdefault((name, what), WrongRows(example)).add(start, rows)
            words.append(values.view(np.int64))
        yield np.column_stack(words)
        start += len(batch)
