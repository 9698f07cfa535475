"""The steps that follow a table: their times, and their inputs from a table of the future."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bptt.errors import BpttError
from bptt.training.calendar_steps import require_dates
from bptt.training.columns import Columns
from bptt.training.csv_dialect import Dialect
from bptt.training.loading import Rows, load_rows
from bptt.training.scaling import standard_blocks
from bptt.training.spool import spool
from bptt.training.table_columns import require_columns
from bptt.training.table_rows import open_table
from bptt.training.tables import Table


@dataclass(frozen=True)
class StepsAhead:
    """Steps that follow a table.

    times: (steps,), numbers from 1 if the table has none. labels: as the table writes them. x:
    their inputs in standard units, (steps, i). note: what is uncertain about the times, or nothing.
    """

    times: np.ndarray
    labels: list[str]
    x: np.ndarray | None = None
    note: str = ""


def steps_ahead(table: Table, steps: int, future: Path | None) -> StepsAhead:
    """Return the steps that follow a table, or raise BpttError unless `future` has their inputs."""
    names = table.columns.inputs
    if not names:
        return _dated(table, steps)
    if future is None:
        raise BpttError(
            f"the network has the inputs {', '.join(names)}; expected a table that has them for "
            "the steps ahead (--future)"
        )
    rows = _read_future(table, future)
    if table.times is None:
        if len(rows.values) != steps:
            raise BpttError(
                f"{future} has {len(rows.values)} rows; expected one for each of {steps} steps"
            )
        ahead = _dated(table, steps)
    else:
        assert rows.times is not None
        ahead = _matched(table, steps, future, rows.times)
    assert table.x_scaling is not None
    x = spool(standard_blocks(future, names, rows.values[:steps], table.x_scaling))
    return replace(ahead, x=x)


def _read_future(table: Table, future: Path) -> Rows:
    """Read the inputs and times of the future, in the table's notation."""
    run = table.columns
    is_text = run.dialect != Dialect() and future.suffix.lower() != ".parquet"
    notation = Dialect(
        decimal=run.dialect.decimal,
        thousands=run.dialect.thousands,
        missing=run.dialect.missing,
    )
    columns = Columns(
        target=run.inputs,
        time=run.time,
        time_zone=run.time_zone,
        dialect=notation if is_text else Dialect(),
    )
    with open_table(future, columns.dialect) as file:
        require_columns(file, [(name, "inputs") for name in run.inputs])
        return load_rows(file, columns, likely_format=run.time_format)


def _dated(table: Table, steps: int) -> StepsAhead:
    """Continue the calendar, or say what stands in for it."""
    times, clock = table.times, table.clock
    if times is None or len(times) < 2:
        numbers = np.arange(1, steps + 1)
        return StepsAhead(numbers, [str(number) for number in numbers])
    if table.step is not None:
        ahead = table.step.after(times[-1], steps)
        return StepsAhead(ahead, clock.write(ahead))
    gap = np.sort(np.diff(times))[(len(times) - 1) // 2]
    ahead = times[-1] + gap * np.arange(1, steps + 1)
    if ahead.dtype.kind == "M":
        require_dates(ahead)
    note = (
        f"column {table.columns.time!r} is not evenly spaced; the steps ahead are dated as far "
        f"apart as its rows usually are, {gap}"
    )
    return StepsAhead(ahead, clock.write(ahead), None, note)


def _matched(table: Table, steps: int, future: Path, times: np.ndarray) -> StepsAhead:
    """Return the steps at the times of the future, or raise BpttError unless these follow."""
    assert table.times is not None
    write, last = table.clock.write, table.times[-1]
    if times.dtype.kind != last.dtype.kind:
        raise BpttError(
            f"column {table.columns.time!r} of {future} holds {_kind(times)}; expected "
            f"{_kind(table.times)}, as in {table.path}"
        )
    times = times.astype(last.dtype)
    expected = times[:steps] if table.step is None else table.step.after(last, steps)
    for row in np.flatnonzero(~_same(times[:steps], expected[: len(times)]))[:1]:
        got, wanted = write(times[row : row + 1])[0], write(expected[row : row + 1])[0]
        raise BpttError(f"row {row + 1} of {future} is at {got}; expected {wanted}, {_why(row)}")
    if len(times) and times[0] <= last:
        got, end = write(times[:1])[0], write(table.times[-1:])[0]
        raise BpttError(
            f"row 1 of {future} is at {got}; expected times after {end}, where {table.path} ends"
        )
    if len(times) < steps:
        until = "" if table.step is None else f", up to {write(expected[-1:])[0]}"
        raise BpttError(
            f"{future} has {len(times)} rows; expected one for each of {steps} steps{until}"
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
