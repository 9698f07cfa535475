"""The steps that follow a table: their times, and their inputs from a table of the future."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bptt.data.tables.calendar_steps import require_dates
from bptt.data.tables.categories import calendar_classes
from bptt.data.tables.columns import Columns
from bptt.data.tables.csv_dialect import Dialect
from bptt.data.tables.loading import Rows, load_rows
from bptt.data.tables.measures import features, sizes_of
from bptt.data.tables.panels import Panel
from bptt.data.tables.series import Series
from bptt.data.tables.table import Table
from bptt.data.tables.table_columns import require_columns
from bptt.data.tables.table_rows import open_table
from bptt.errors import BpttError


@dataclass(frozen=True)
class StepsAhead:
    """Steps that follow a series.

    times: (steps,), numbers from 1 if the table has none. labels: as the table writes them. x:
    their inputs in standard units, (steps, i). note: what is uncertain about the times, or nothing.
    """

    times: np.ndarray
    labels: list[str]
    x: np.ndarray | None = None
    note: str = ""


@dataclass(frozen=True)
class SeriesEnd:
    """What it takes to go on from the end of a series.

    constants: the inputs that never change within a series, by name: numbers, and classes by their
    numbers.
    """

    table: Table | Panel
    series: Series
    constants: Mapping[str, float]

    @property
    def changing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The inputs of which the steps ahead have to be told: numbers, and categories."""
        columns = self.table.columns
        numbers = tuple(name for name in columns.inputs if name not in self.constants)
        return numbers, tuple(name for name in columns.categories if name not in self.constants)


def steps_ahead(table: Table | Panel, steps: int, future: Any) -> list[StepsAhead]:
    """Return the steps that follow each series, or raise BpttError.

    future: a table with the inputs of all of them, if there are inputs that change.
    """
    source, ends = _source(future), _ends(table)
    rows = _read_future(ends[0], future)
    if rows is None:
        return [_follow(end, steps, None, source) for end in ends]
    if table.columns.series is None:
        return [_follow(ends[0], steps, rows, source)]
    each, names = dict(rows.each_series(source)), [end.series.name for end in ends]
    if missing := [name for name in names if name not in each]:
        raise BpttError(
            f"{source} has no rows of series {missing[0]!r}; expected {steps} for each of the "
            f"{len(names)} series"
        )
    parts = zip(ends, names, strict=True)
    return [_follow(end, steps, each[name], f"series {name!r} of {source}") for end, name in parts]


def _ends(table: Table | Panel) -> list[SeriesEnd]:
    """Return the end of each series."""
    if table.columns.series is None:  # all inputs are taken to change
        return [SeriesEnd(table, series, {}) for series in table.series]
    names, constant = (*table.columns.inputs, *table.columns.categories), _constant_inputs(table)
    ends = []
    for series in table.series:
        numbers = series.numbers[-1:]
        if table.x_scaling is not None:
            numbers = table.x_scaling.original(numbers)
        last = [*numbers[0].tolist(), *series.classes[-1].tolist()]
        by_name = zip(names, last, strict=False)  # the calendar's classes come last
        ends.append(SeriesEnd(table, series, {k: v for k, v in by_name if k in constant}))
    return ends


def _constant_inputs(table: Table | Panel) -> set[str]:
    """Return which inputs never change within a series."""
    names = (*table.columns.inputs, *table.columns.categories)
    changes = np.zeros(len(names), dtype=bool)
    for series in table.series:
        classes = np.nan_to_num(series.classes[:, : len(table.classes)], nan=-1)
        values = np.concatenate([series.numbers, classes], axis=1)
        changes |= np.ptp(values, axis=0) > 0
    return {name for name, does in zip(names, changes, strict=True) if not does}


def _source(future: Any) -> str:
    return str(future) if isinstance(future, str | Path) else "the table of the steps ahead"


def _follow(end: SeriesEnd, steps: int, rows: Rows | None, source: str) -> StepsAhead:
    """Return the steps that follow a series, with their inputs from these rows."""
    if rows is None or end.series.times is None:
        if rows is not None and len(rows.values) != steps:
            raise BpttError(
                f"{source} has {len(rows.values)} rows; expected one for each of {steps} steps"
            )
        ahead = _dated(end, steps)
    else:
        assert rows.times is not None
        ahead = _matched(end, steps, source, rows.times)
    columns = end.table.columns
    sizes = sizes_of(columns, end.table.classes)
    if not columns.inputs and not sizes:
        return ahead
    brought = {} if rows is None else dict(zip(_names(end), rows.values[:steps].T, strict=True))
    every = {name: np.full(steps, value) for name, value in end.constants.items()} | brought
    numbers, classes = (
        np.stack([every[name] for name in names], axis=1) if names else np.empty((steps, 0))
        for names in (columns.inputs, columns.categories)
    )
    if columns.calendar:
        by_date = calendar_classes(ahead.times, end.table.clock, columns.calendar)
        classes = np.concatenate([classes, by_date], axis=1)
    blocks = features(source, columns.inputs, numbers, end.table.x_scaling, classes, sizes)
    return replace(ahead, x=np.concatenate(list(blocks)))


def _names(end: SeriesEnd) -> tuple[str, ...]:
    numbers, categories = end.changing
    return numbers + categories


def _read_future(end: SeriesEnd, future: Any) -> Rows | None:
    """Read the inputs and times of the future, in the table's notation, if there have to be any."""
    columns, (numbers, categories) = end.table.columns, end.changing
    names = numbers + categories
    if not names:
        if future is not None:
            raise BpttError(
                f"future is {_source(future)}, but no input has to be told of the steps ahead; "
                "leave it out (--future)"
            )
        return None
    if future is None:
        raise BpttError(
            f"the network has the inputs {', '.join(names)}; expected a table that has them for "
            "the steps ahead (--future)"
        )
    is_text = isinstance(future, str | Path) and Path(future).suffix.lower() != ".parquet"
    notation = Dialect(
        decimal=columns.dialect.decimal,
        thousands=columns.dialect.thousands,
        missing=columns.dialect.missing,
    )
    wanted = Columns(
        inputs=numbers,
        categories=categories,
        time=columns.time,
        time_zone=columns.time_zone,
        series=columns.series,
        dialect=notation if is_text and columns.dialect != Dialect() else Dialect(),
    )
    every = dict(zip(columns.categories, end.table.classes, strict=True))
    classes = [every[name] for name in categories]
    with open_table(future, wanted.dialect) as file:
        require_columns(file, [(name, "inputs") for name in numbers])
        likely = columns.time_format
        return load_rows(file, wanted, likely, classes, chooses=False)


def _dated(end: SeriesEnd, steps: int) -> StepsAhead:
    """Continue the calendar, or say what stands in for it."""
    times, clock = end.series.times, end.table.clock
    if times is None or len(times) < 2:
        numbers = np.arange(1, steps + 1)
        return StepsAhead(numbers, [str(number) for number in numbers])
    if end.series.step is not None:
        ahead = end.series.step.after(times[-1], steps)
        return StepsAhead(ahead, clock.write(ahead))
    gap = np.sort(np.diff(times))[(len(times) - 1) // 2]
    ahead = times[-1] + gap * np.arange(1, steps + 1)
    if ahead.dtype.kind == "M":
        require_dates(ahead)
    note = (
        f"column {end.table.columns.time!r} is not evenly spaced; the steps ahead are dated as far "
        f"apart as its rows usually are, {gap}"
    )
    return StepsAhead(ahead, clock.write(ahead), None, note)


def _matched(end: SeriesEnd, steps: int, source: str, times: np.ndarray) -> StepsAhead:
    """Return the steps at the times of the future, or raise BpttError unless these follow."""
    assert end.series.times is not None
    write, last = end.table.clock.write, end.series.times[-1]
    if times.dtype.kind != last.dtype.kind:
        raise BpttError(
            f"column {end.table.columns.time!r} of {source} holds {_kind(times)}; expected "
            f"{_kind(end.series.times)}, as in {end.series.source}"
        )
    times = times.astype(last.dtype)
    expected = times[:steps] if end.series.step is None else end.series.step.after(last, steps)
    for row in np.flatnonzero(~_same(times[:steps], expected[: len(times)]))[:1]:
        got, wanted = write(times[row : row + 1])[0], write(expected[row : row + 1])[0]
        raise BpttError(f"row {row + 1} of {source} is at {got}; expected {wanted}, {_why(row)}")
    if len(times) and times[0] <= last:
        got, stop = write(times[:1])[0], write(end.series.times[-1:])[0]
        raise BpttError(
            f"row 1 of {source} is at {got}; expected times after {stop}, where "
            f"{end.series.source} ends"
        )
    if len(times) < steps:
        until = "" if end.series.step is None else f", up to {write(expected[-1:])[0]}"
        raise BpttError(
            f"{source} has {len(times)} rows; expected one for each of {steps} steps{until}"
        )
    return StepsAhead(expected, write(expected))


def _why(row: int) -> str:
    if row == 0:
        return "the first step after the table's end"
    return "the step after the row before: one row for every step, with none left out"


def _same(times: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if times.dtype.kind == "M":
        return np.asarray(times == expected)
    return np.asarray(np.isclose(times, expected, rtol=1e-9, atol=1e-9))


def _kind(times: np.ndarray) -> str:
    return "dates" if times.dtype.kind == "M" else "numbers"
