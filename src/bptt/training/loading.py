"""The rows of a table as its columns ask for them, or why they cannot be taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bptt.errors import BpttError
from bptt.training.calendar_steps import Spacing, step_of
from bptt.training.clock import Clock
from bptt.training.columns import Columns
from bptt.training.csv_dialect import Dialect
from bptt.training.gaps import (
    Gap,
    MissingSteps,
    fill_columns,
    gaps_of,
    require_short,
    with_all_steps,
)
from bptt.training.spool import spool
from bptt.training.table_columns import (
    constant_columns,
    find_target,
    no_target,
    require_columns,
)
from bptt.training.table_rows import WRONG, Problems, TableFile, WrongRows, blocks_of
from bptt.training.time_columns import TimeColumn


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a table: values (N, d + i), times (N,), and what there is to say about them.

    count: how many rows the file has.
    """

    columns: Columns
    values: np.ndarray
    times: np.ndarray | None
    clock: Clock
    step: Spacing | None
    left_out: dict[str, str]
    count: int
    gaps: tuple[Gap, ...] = ()

    @property
    def missing_steps(self) -> MissingSteps | None:
        """The steps without a row."""
        if self.times is None or self.step is None:
            return None
        return MissingSteps.of(self.times, self.step)

    def filled(self, path: Path) -> Rows:
        """Return the rows with a row for every step, and no value missing."""
        assert self.columns.fill is not None
        times, values, missing = self.times, self.values, self.missing_steps
        longest = self.columns.longest_gap
        if missing is not None and times is not None and self.step is not None:
            missing.require_short(path, longest, times, self.clock)
            times, values = with_all_steps(times, values, self.step)
        names = self.columns.target + self.columns.inputs
        require_short(path, gaps_of(values, names), longest)
        return replace(
            self, times=times, values=values, gaps=fill_columns(values, names, self.columns.fill)
        )


def load_rows(file: TableFile, columns: Columns, likely_format: str | None = None) -> Rows:
    """Read the rows of a table, with what is missing filled if that is asked for.

    likely_format: of the times, where several fit.
    """
    require_columns(file, columns.roles)
    left_out: dict[str, str] | None = None
    if not columns.target:
        target, left_out = find_target(file, [name for name, _ in columns.roles])
        columns = replace(columns, target=target)
    names = columns.target + columns.inputs
    values, wrong = file.read(names)
    if (
        left_out is not None
        and len(values) > 1
        and (constant := constant_columns(columns.target, values))
    ):
        left_out |= constant
        varying = tuple(name for name in columns.target if name not in constant)
        if not varying:
            raise no_target(file, left_out)
        places = [k for k, name in enumerate(names) if name not in constant]
        values = spool(block[:, places] for _, block in blocks_of(values))
        columns = replace(columns, target=varying)
    times, clock, step = None, Clock(), None
    if columns.time is not None:
        form, zone = columns.time_format, columns.time_zone
        column = TimeColumn(file, columns.time, form, zone, likely_format)
        times, clock = column.read()
        wrong |= column.wrong
    _refuse(file.path, columns, wrong, len(values))
    if times is not None:
        _check_times(file.path, columns, times, clock)
        step = step_of(times, clock)
    dialect = Dialect() if file.layout is None else file.layout.dialect
    columns = replace(columns, dialect=dialect, time_format=clock.format)
    rows = Rows(columns, values, times, clock, step, left_out or {}, len(values))
    return rows.filled(file.path) if columns.fill else rows


def _refuse(path: Path, columns: Columns, problems: Problems, count: int) -> None:
    """Raise BpttError if there is a problem that the columns do not allow."""
    for name, role in columns.roles:
        for what in WRONG:
            rows = problems.get((name, what))
            problem = rows and _problem(what, rows, columns, role == "time", count)
            if problem:
                raise BpttError(f"column {name!r} ({role}) of {path} {problem}")


def _problem(what: str, rows: WrongRows, columns: Columns, is_time: bool, count: int) -> str | None:
    fill = columns.fill
    if what == "text":
        wanted = _wanted_time(columns.time_format) if is_time else _wanted_number(rows.example)
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


def _wanted_number(example: str) -> str:
    """Say what to do about a text among numbers."""
    remedy = "numbers: leave the column out or mend the row"
    if any(character.isdigit() for character in example):
        return f"{remedy}, or say how numbers are written (--decimal, --thousands)"
    return f"{remedy}, or say that it stands for a missing value (--missing)"


def _check_times(path: Path, columns: Columns, times: np.ndarray, clock: Clock) -> None:
    """Raise BpttError unless they rise."""
    for start, block in blocks_of(times, overlap=1):
        for k in np.flatnonzero(block[1:] <= block[:-1])[:1]:
            before, after = clock.write(block[k : k + 2])
            got = f"is {after} in row {start + k + 2}, after {before} in the row before"
            wanted = "sort the table by it, with one row for each time"
            if _comes_twice(block[k], block[k + 1], clock):
                wanted += "; --time-zone tells apart an hour that comes twice, in autumn"
            raise BpttError(f"column {columns.time!r} (time) of {path} {got}; {wanted}")


def _comes_twice(before: np.generic, after: np.generic, clock: Clock) -> bool:
    """Whether times fall by less than an hour, as where a clock is put back."""
    if before.dtype.kind != "M" or before.dtype == "M8[D]" or clock.zone is not None:
        return False
    is_day_twice = before == after == before.astype("M8[D]")
    fall: np.timedelta64 = before - after  # type: ignore[operator]
    return not is_day_twice and bool(fall < np.timedelta64(61, "m"))
