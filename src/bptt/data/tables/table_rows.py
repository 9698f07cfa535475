"""Files of tables in, rows of numbers out: CSV or Parquet of any size, by way of polars.

A table goes in blocks of rows into temporary files: see `bptt.data.spool`.
"""

from __future__ import annotations

import csv
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.data import blocks
from bptt.data.input_files import open_regular
from bptt.data.spool import require_unpackable, spool
from bptt.data.tables.csv_dialect import SEPARATORS, Dialect, Layout, layout_of
from bptt.data.tables.csv_files import (
    long_row,
    no_utf8,
    require_names_read,
    require_no_rows_in_comments,
    utf8_copy,
)
from bptt.data.tables.csv_numbers import Notation, unit_of
from bptt.data.tables.frames import as_polars, digest_of
from bptt.errors import BpttError, require_path

if TYPE_CHECKING:
    import polars as pl

WRONG = ("text", "infinite", "missing")  # what can be wrong with a value
HEAD = 1000  # rows within which a column of a text has to show a number
MOST_CELLS = 1 << 21  # that are in memory at once, or in the head, if a row has fewer


@dataclass
class WrongRows:
    """Rows where something is wrong, counted from 1: the first five, and how many."""

    example: str
    first: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, start: int, wrong: np.ndarray) -> None:
        """Add those of a block that begins at row `start`, counted from 0."""
        rows = np.flatnonzero(wrong)
        self.first += (start + 1 + rows[: 5 - len(self.first)]).tolist()
        self.count += len(rows)

    def __str__(self) -> str:
        return ("row " if self.count == 1 else "rows ") + listed(self.first, self.count)


Problems = dict[tuple[str, str], WrongRows]  # by column and what is wrong with it


@dataclass(frozen=True)
class TableFile:
    """A table as it stands in its file, or in memory.

    source: what to call it. path: of its file.
    """

    source: str
    path: Path | None
    sha256: str
    frame: pl.LazyFrame
    head: pl.DataFrame  # its first rows
    layout: Layout | None  # of a text
    examples: dict[str, str | None]  # of each column of text, its first value

    @property
    def notation(self) -> Notation:
        """How numbers are written in columns of text."""
        return Notation() if self.layout is None else self.layout.dialect.notation

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """The columns and their types."""
        return dict(self.head.schema)

    @cached_property
    def units(self) -> dict[str, str]:
        """The sign of a currency, or of percent, that stands in the numbers of a column."""
        units = {name: unit_of(example or "") for name, example in self.examples.items()}
        return {name: unit for name, unit in units.items() if unit}

    @cached_property
    def number_columns(self) -> frozenset[str]:
        """The columns of numbers: by their type or, in a text, by their first value."""
        import polars as pl  # noqa: PLC0415

        by_type = {
            name for name, kind in self.kinds.items() if kind.is_numeric() or kind == pl.Boolean
        }
        if self.layout is None:
            return frozenset(by_type)
        texts: dict[str, list[str]] = {}
        for name, example in self.examples.items():
            if example is not None:
                texts.setdefault(self.units.get(name, ""), []).append(name)
        for unit, names in texts.items():
            column = pl.Series("t", [self.examples[name] for name in names])
            numbers = _numbers(column, self.notation, unit)
            by_type.update(names[k] for k in numbers.is_not_null().arg_true())
        return frozenset(by_type)

    def column(self, name: str) -> Iterator[pl.Series]:
        """Yield blocks of one column; of a text, without what stands for nothing."""
        for batch in self._batches([name]):
            yield _cleaned(batch[name], self.notation)

    def numbers_of(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """Return the numbers that texts of a column are, NaN for those that are none."""
        import polars as pl  # noqa: PLC0415

        column = pl.Series("t", texts, dtype=pl.String)
        numbers = _numbers(column, self.notation, self.units.get(name, ""))
        return numbers.cast(pl.Float64).fill_null(math.nan).to_numpy()

    def _batches(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        from polars import selectors  # noqa: PLC0415

        size = max(1, min(blocks.BLOCK, MOST_CELLS // len(self.kinds)))
        frame = self.frame
        if 2 * len(names) < len(self.kinds):  # a choice of thousands takes polars a minute
            frame = frame.select(selectors.by_name(*names))  # "*" and "^a$" are names too
        yield from frame.collect_batches(chunk_size=size, maintain_order=True)

    def read(self, names: Sequence[str]) -> tuple[np.ndarray, Problems]:
        """Return columns as float64 (N, columns), NaN where something is wrong, and what is."""
        if self.layout is None and self.path is not None:
            _require_unpackable(self.path, self.frame, len(names))
        problems: Problems = {}
        return spool(self.numbers(names, problems)), problems

    def numbers(self, names: Sequence[str], problems: Problems) -> Iterator[np.ndarray]:
        """Yield blocks of columns as float64, and note what is wrong with them."""
        kinds: dict[tuple[bool, str], list[int]] = {}
        for k, name in enumerate(names):
            kind = (str(self.kinds[name]) == "String", self.units.get(name, ""))
            kinds.setdefault(kind, []).append(k)
        start = 0
        for batch in self._batches(names):
            values = np.empty((len(batch), len(names)))
            for (_, unit), places in kinds.items():
                # One long column is a hundred times as fast as thousands of short ones.
                long = pile([batch[names[k]] for k in places], self.notation)
                numbers = _numbers(long, self.notation, unit)
                values[:, places] = numbers.to_numpy().reshape(len(places), -1).T
                note_wrong(long, numbers, [names[k] for k in places], start, problems)
            yield values
            start += len(batch)


def note_wrong(
    long: pl.Series, numbers: pl.Series, names: Sequence[str], start: int, problems: Problems
) -> None:
    """Note where columns, one under the other, hold no finite number, from row `start` on."""
    values = numbers.to_numpy()
    stray = (numbers.is_null() & long.is_not_null()).to_numpy()
    count = len(long) // len(names)
    for what, wrong in zip(WRONG, (stray, np.isinf(values), np.isnan(values)), strict=True):
        by_column = wrong.reshape(len(names), count)
        for k in np.flatnonzero(by_column.any(axis=1)).tolist():
            example = str(long[k * count + int(by_column[k].argmax())])[:40]
            problems.setdefault((names[k], what), WrongRows(example)).add(start, by_column[k])


def pile(columns: Sequence[pl.Series], notation: Notation) -> pl.Series:
    """Return columns of one kind, one under the other, cleaned if they are text."""
    import polars as pl  # noqa: PLC0415

    if str(columns[0].dtype) != "String":
        columns = [column.cast(pl.Float64, strict=False) for column in columns]
    return _cleaned(pl.concat([column.alias("t") for column in columns], rechunk=True), notation)


def _cleaned(column: pl.Series, notation: Notation) -> pl.Series:
    import polars as pl  # noqa: PLC0415

    if str(column.dtype) != "String":
        return column
    return column.alias("t").to_frame().select(notation.clean(pl.col("t"))).to_series()


def _numbers(column: pl.Series, notation: Notation, unit: str) -> pl.Series:
    import polars as pl  # noqa: PLC0415

    if str(column.dtype) != "String":
        return column
    return column.to_frame().select(notation.number(pl.col("t"), unit)).to_series()


@contextmanager
def open_table(data: Any, dialect: Dialect) -> Iterator[TableFile]:
    """Open a table, a file or a frame; make one line of what goes wrong in opening or reading."""
    try:
        import polars as pl  # noqa: PLC0415 (an extra, slow to import)
    except ImportError:
        hint = "in a checkout of bptt: pip install '.[tables]'"
        raise BpttError(f"polars is not installed; {hint}") from None
    if not isinstance(data, str | Path):
        dialect.require_none("a frame")
        yield _of_frame(as_polars(data))
        return
    require_path("the table", data)
    path, layout = Path(data), None
    with ExitStack() as stack:
        try:
            sha256 = _digest(path)
            if _is_text(path):
                layout = layout_of(path, dialect)
                require_names_read(path, layout)
                if layout.dialect.comment and dialect.comment is None:
                    require_no_rows_in_comments(path, layout)
                source = path
                if layout.needs_copy:
                    folder = stack.enter_context(tempfile.TemporaryDirectory())
                    source = utf8_copy(path, layout, Path(folder))
                frame = _scan_text(path, source, layout)
            else:
                dialect.require_none(str(path))
                frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            width = max(1, frame.collect_schema().len())
            head = frame.head(max(20, min(HEAD, MOST_CELLS // width))).collect()
            yield TableFile(str(path), path, sha256, frame, head, layout, _examples(head, layout))
        except OSError as error:
            raise BpttError(f"cannot read {path}: {error.strerror or error}") from None
        except UnicodeError as error:
            raise BpttError(
                f"cannot read {path} as {dialect.encoding or 'UTF-8'}: {error}; say what it is "
                "with encoding (--encoding)"
            ) from None
        except pl.exceptions.PanicException:
            raise BpttError(_what_is_wrong(path, layout, "it is damaged")) from None
        except (pl.exceptions.PolarsError, csv.Error) as error:
            raise BpttError(_what_is_wrong(path, layout, str(error).partition("\n")[0])) from None


def _of_frame(frame: pl.DataFrame) -> TableFile:
    """Return a frame as tables in files are read."""
    head = frame.head(HEAD)
    examples = _examples(head, None)
    return TableFile("the table", None, digest_of(frame), frame.lazy(), head, None, examples)


def _what_is_wrong(path: Path, layout: Layout | None, reason: str) -> str:
    if not _is_text(path):
        return f"cannot read {path}: {reason}; expected a whole Parquet file"
    if layout and "more fields" in reason and (line := long_row(path, layout)):
        return line
    if "utf-8" in reason.lower() and (line := no_utf8(path)):
        return line
    return f"cannot read {path}: {reason}; expected a CSV file in UTF-8"


def _examples(head: pl.DataFrame, layout: Layout | None) -> dict[str, str | None]:
    """Return the first value in each column of text."""
    notation = Notation() if layout is None else layout.dialect.notation
    names = [name for name, kind in head.schema.items() if str(kind) == "String"]
    if not names or not len(head):
        return dict.fromkeys(names)
    long = pile([head[name] for name in names], notation)
    firsts = long.is_not_null().to_numpy().reshape(len(names), -1).argmax(axis=1)
    return {
        name: long[k * len(head) + int(row)]
        for k, (name, row) in enumerate(zip(names, firsts, strict=True))
    }


def listed(first: Sequence[object], count: int) -> str:
    """Return the first of `count` things, and how many more there are.

    >>> listed([3, 5], 2), listed([3, 5], 9)
    ('3, 5', '3, 5 and 7 more')
    """
    more = count - len(first)
    return ", ".join(map(str, first)) + (f" and {more} more" if more else "")


def _digest(path: Path) -> str:
    """Return the file's SHA-256, or raise BpttError if it cannot be a table."""
    with open_regular(path, "a table") as file:
        if not _is_text(path) and path.suffix.lower() != ".parquet":
            raise BpttError(f"{path} is no table; expected a .csv, .tsv or .parquet file")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not file.tell():
            raise BpttError(f"{path} is empty; expected a table with rows to learn from")
    return digest


def _scan_text(path: Path, source: Path, layout: Layout) -> pl.LazyFrame:
    """Scan a text, of which `source` is the file or its copy; every value as text.

    polars would guess the types from the first rows, and stop at the others.
    """
    import polars as pl  # noqa: PLC0415

    for name, count in Counter(layout.names or ()).items():
        if name and count > 1:
            raise BpttError(f"{path} has {count} columns named {name!r}; rename them")
    dialect = layout.dialect
    frame = pl.scan_csv(
        source,
        separator=dialect.separator or ",",
        has_header=bool(dialect.header),
        skip_lines=layout.skip,
        comment_prefix=dialect.comment or None,
        with_column_names=lambda columns: _named(columns, layout.names),
        infer_schema=False,
        glob=False,
    )
    blank = _blank_lines(source)
    if not blank:
        return frame
    return frame.head(max(0, frame.select(pl.len()).collect().item() - blank))


def _named(columns: list[str], names: tuple[str, ...] | None) -> list[str]:
    """Return the names, where there are any, without space around them; else numbers from 1."""
    if names is None:
        return [f"column_{k}" for k in range(1, len(columns) + 1)]
    if len(names) != len(columns):
        return columns
    return [name or columns[k] for k, name in enumerate(names)]


def _require_unpackable(path: Path, frame: pl.LazyFrame, columns: int) -> None:
    """Raise BpttError if a file that is packed has more rows than this machine bears."""
    import polars as pl  # noqa: PLC0415

    count = frame.select(pl.len()).collect().item()
    require_unpackable(str(path), 8 * columns * count, path.stat().st_size)


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in SEPARATORS


def _blank_lines(path: Path) -> int:
    """Return how many lines at the end are empty, of each of which polars makes a row."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 4096), 2)
        tail = file.read()
    return max(0, tail[len(tail.rstrip(b"\r\n")) :].count(b"\n") - 1)
