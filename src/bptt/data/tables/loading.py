"""The rows of a table as its columns ask for them, or why they cannot be taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bptt.data.blocks import blocks_of
from bptt.data.spool import spool
from bptt.data.tables.calendar_steps import Spacing, step_of
from bptt.data.tables.categories import calendar_classes, read_categories, read_classes
from bptt.data.tables.clock import Clock
from bptt.data.tables.columns import Columns
from bptt.data.tables.csv_dialect import Dialect
from bptt.data.tables.gaps import (
    Fill,
    Gap,
    MissingSteps,
    fill_columns,
    fill_gaps,
    gaps_of,
    require_short,
    with_all_steps,
)
from bptt.data.tables.table_columns import (
    constant_columns,
    no_numbers,
    numbers_left,
    require_columns,
)
from bptt.data.tables.table_rows import (
    WRONG,
    Problems,
    TableFile,
    WrongRows,
)
from bptt.data.tables.time_columns import TimeColumn
from bptt.errors import BpttError


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table: values (N, d + i + k), times (N,), and what there is to say about them.

    values: of the target and of inputs that are numbers, and which class each row has in each
    category. classes: those of each category. series: which series each row is of, by its number in
    `ids`, if there are several. count: how many rows there were.
    """

    columns: Columns
    values: np.ndarray
    times: np.ndarray | None
    clock: Clock
    step: Spacing | None
    left_out: dict[str, str]
    count: int
    gaps: tuple[Gap, ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    series: np.ndarray | None = None
    ids: tuple[str, ...] = ()

    @property
    def missing_steps(self) -> MissingSteps | None:
        """The steps without a row."""
        if self.times is None or self.step is None:
            return None
        return MissingSteps.of(self.times, self.step)

    @property
    def targets(self) -> np.ndarray:
        """The values of the target, (N, d)."""
        return self.values[:, : len(self.columns.target)]

    @property
    def inputs(self) -> np.ndarray:
        """The inputs that are numbers, (N, i)."""
        d, i = len(self.columns.target), len(self.columns.inputs)
        return self.values[:, d : d + i]

    @property
    def first_level(self) -> np.ndarray:
        """The values of the row that differencing costs, (d,), else zeros."""
        targets = self.targets
        return np.array(targets[0]) if self.columns.lost else np.zeros(targets.shape[1])

    @property
    def dated_classes(self) -> np.ndarray:
        """Which class each row has in each category, and by the calendar, (N, k)."""
        columns = self.columns
        width = len(columns.target) + len(columns.inputs)
        parts = [self.values[:, width:]]
        if columns.calendar and self.times is not None:
            parts.append(calendar_classes(self.times, self.clock, columns.calendar))
        return np.concatenate(parts, axis=1)

    def each_series(self, source: str) -> Iterator[tuple[str, Rows]]:
        """Yield what each series is called, and its rows; BpttError is raised if they are wrong."""
        assert self.series is not None
        order = np.argsort(self.series, kind="stable")
        stops = np.searchsorted(self.series[order], np.arange(len(self.ids) + 1))
        for name, (start, stop) in zip(self.ids, itertools.pairwise(stops.tolist()), strict=True):
            rows: Any = order[start:stop]
            if rows[-1] - rows[0] == len(rows) - 1:  # they lie together: nothing is copied
                rows = slice(int(rows[0]), int(rows[-1]) + 1)
            times = None if self.times is None else self.times[rows]
            words = f"series {name!r} of {source}"
            if times is not None:
                _check_times(words, self.columns, times, self.clock)
            part = replace(
                self,
                values=self.values[rows],
                times=times,
                step=None if times is None else step_of(times, self.clock),
                count=stop - start,
                series=None,
            )
            yield name, part.filled(words) if self.columns.fill else part

    def filled(self, source: str) -> Rows:
        """Return the rows with a row for every step, and no value missing."""
        assert self.columns.fill is not None
        times, values, missing = self.times, self.values, self.missing_steps
        longest = self.columns.longest_gap
        if missing is not None and times is not None and self.step is not None:
            missing.require_short(source, longest, times, self.clock)
            times, values = with_all_steps(times, values, self.step)
        names = self.columns.target + self.columns.inputs
        _require_fillable(source, names, values, self.columns.fill)
        require_short(source, gaps_of(values, names), longest)
        gaps = fill_columns(values, names, self.columns.fill)
        for k in range(len(names), values.shape[1]):
            if not np.isnan(values[0, k]):
                fill_gaps(values[:, k], False)
        return replace(self, times=times, values=values, gaps=gaps)


def load_rows(
    file: TableFile,
    columns: Columns,
    likely_format: str | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    *,
    chooses: bool = True,
) -> Rows:
    """Read the rows of a table, with what is missing filled if that is asked for.

    Several series are not filled yet, but each by itself: `Rows.each_series`.
    likely_format: of the times, where several fit. classes: of each category, those to use.
    chooses: whether columns that are not named are looked for.
    """
    require_columns(file, columns.roles)
    columns, values, wrong, left_out = _numbers(file, columns, chooses=chooses)
    known: tuple[tuple[str, ...], ...] = ()
    if columns.categories:
        numbers, known = read_categories(file, columns.categories, classes)
        values = _beside(values, numbers)
    times, clock, step = None, Clock(), None
    if columns.time is not None:
        form, zone = columns.time_format, columns.time_zone
        column = TimeColumn(file, columns.time, form, zone, likely_format)
        times, clock = column.read()
        wrong |= column.wrong
    _refuse(file.source, columns, wrong, len(values))
    if columns.calendar and (times is None or times.dtype.kind != "M"):
        raise BpttError(
            f"column {columns.time!r} (time) of {file.source} holds numbers; the calendar "
            "(--calendar) needs dates"
        )
    if times is not None and columns.series is None:
        _check_times(file.source, columns, times, clock)
        step = step_of(times, clock)
    dialect = Dialect() if file.layout is None else file.layout.dialect
    columns = replace(columns, dialect=dialect, time_format=clock.format)
    rows = Rows(columns, values, times, clock, step, left_out, len(values), (), known)
    if columns.series is not None:
        series, ids = _series(file, columns.series)
        return replace(rows, series=series, ids=ids)
    return rows.filled(file.source) if columns.fill else rows


def _numbers(
    file: TableFile, columns: Columns, *, chooses: bool
) -> tuple[Columns, np.ndarray, Problems, dict[str, str]]:
    """Return the columns with what was looked for, the numbers, what is wrong, and what is left."""
    left_out: dict[str, str] = {}
    role = columns.unnamed if chooses else None
    if role is not None:
        chosen, left_out = numbers_left(file, [name for name, _ in columns.roles], role)
        columns = columns.with_numbers(chosen)
    names = columns.target + columns.inputs
    if not names:
        return columns, np.empty((0, 0)), {}, left_out
    values, wrong = file.read(names)
    constant = constant_columns(chosen, values) if role is not None and len(values) > 1 else {}
    if role is not None and constant:
        left_out |= constant
        varying = tuple(name for name in chosen if name not in constant)
        if not varying:
            raise no_numbers(file, left_out, role)
        places = [k for k, name in enumerate(names) if name not in constant]
        values = spool(block[:, places] for _, block in blocks_of(values))
        columns = columns.with_numbers(varying)
    return columns, values, wrong, left_out


def _beside(values: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return rows with more columns; values may have none, and then no rows either."""
    if values.shape[1] == 0:
        return more
    return spool(
        np.concatenate([block, more[start : start + len(block)]], axis=1)
        for start, block in blocks_of(values)
    )


def _series(file: TableFile, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which series each row is of, by its number, and what the series are called."""
    series, ids = read_classes(file, name)
    for row in np.flatnonzero(np.isnan(series))[:1]:
        raise BpttError(
            f"column {name!r} (series) of {file.source} is missing in row {row + 1}; every row "
            "needs its series"
        )
    return series.astype(np.int64), ids


def _require_fillable(source: str, names: Sequence[str], values: np.ndarray, fill: Fill) -> None:
    """Raise BpttError if there is nothing to fill a column with."""
    for k, name in enumerate(names):
        if np.isnan(values[0, k]) and (fill == "previous" or np.isnan(values[:, k]).all()):
            what = "is missing in row 1, with none before it"
            remedy = 'fill "linear" takes the nearest'
            if np.isnan(values[:, k]).all():
                what, remedy = "is missing in every row", "leave the rows, or the column, out"
            raise BpttError(f"column {name!r} of {source} {what}; {remedy}")


def _refuse(source: str, columns: Columns, problems: Problems, count: int) -> None:
    """Raise BpttError if there is a problem that the columns do not allow."""
    for name, role in columns.roles:
        for what in WRONG:
            rows = problems.get((name, what))
            problem = rows and _problem(what, rows, columns, role, count)
            if problem:
                raise BpttError(f"column {name!r} ({role}) of {source} {problem}")


def _problem(what: str, rows: WrongRows, columns: Columns, role: str, count: int) -> str | None:
    fill, is_time = columns.fill, role == "time"
    if what == "text":
        wanted = (
            _wanted_time(columns.time_format) if is_time else _wanted_number(rows.example, role)
        )
        return f"has text in {rows}, {rows.example!r}; expected {wanted}"
    if what == "infinite":
        return f"is infinite, or too large, in {rows}; expected finite numbers: mend the row"
    if rows.count == count:
        return "is missing in every row; leave the column out"
    if is_time or fill is None:
        remedy = 'fill "previous" or "linear" (--fill) puts something there'
        return f"is missing in {rows}; {'every row needs its time' if is_time else remedy}"
    if fill == "previous" and rows.first[0] == 1:
        return 'is missing in row 1, with none before it; fill "linear" takes the nearest'
    return None


def _wanted_time(form: str | None) -> str:
    """Say what to do about a text among times, in the format that was asked for, if any."""
    if form is None:
        form = "numbers, or dates in one format"
        return f"{form}: mend the row, or say which it is (--time-format)"
    return f"times as {form}: mend the row, or name the format that it has (--time-format)"


def _wanted_number(example: str, role: str) -> str:
    """Say what to do about a text among numbers."""
    remedy = "numbers: leave the column out or mend the row"
    if any(character.isdigit() for character in example):
        return f"{remedy}, or say how numbers are written (--decimal, --thousands)"
    if role == "inputs":
        remedy += ", or take each text as a class (--categories)"
    return f"{remedy}, or say that it stands for a missing value (--missing)"


def _check_times(source: str, columns: Columns, times: np.ndarray, clock: Clock) -> None:
    """Raise BpttError unless they rise."""
    for start, block in blocks_of(times, overlap=1):
        for k in np.flatnonzero(block[1:] <= block[:-1])[:1]:
            before, after = clock.write(block[k : k + 2])
            got = f"is {after} in row {start + k + 2}, after {before} in the row before"
            wanted = "sort the table by it, with one row for each time"
            if _comes_twice(block[k], block[k + 1], clock):
                wanted += "; --time-zone tells apart an hour that comes twice, in autumn"
            raise BpttError(f"column {columns.time!r} (time) of {source} {got}; {wanted}")


def _comes_twice(before: np.generic, after: np.generic, clock: Clock) -> bool:
    """Whether times fall by less than an hour, as where a clock is put back."""
    if before.dtype.kind != "M" or before.dtype == "M8[D]" or clock.zone is not None:
        return False
    is_day_twice = before == after == before.astype("M8[D]")
    fall: np.timedelta64 = before - after  # type: ignore[operator]
    return not is_day_twice and bool(fall < np.timedelta64(61, "m"))
