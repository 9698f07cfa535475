"""What is reported about a table before a network is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bptt.data.tables.loading import Rows
from bptt.data.tables.table_rows import TableFile, listed
from bptt.errors import counted

SHOWN = 8


def about_rows(file: TableFile, rows: Rows) -> tuple[str, ...]:
    """Return what is modelled, what is left out, how the file is written, and what is missing."""
    dialect = file.layout.words(file.path) if file.layout and file.path else ""
    return (
        *([f"written with {dialect}"] if dialect else []),
        *_columns(file, rows),
        _times(rows),
        *_missing_steps(rows),
        *_filled(rows),
    )


def about_series(
    file: TableFile, rows: Rows, series: Sequence[Rows], cuts: Sequence[int]
) -> tuple[str, ...]:
    """Return the same of several series, rows being those of all."""
    lengths = [len(one.values) for one in series]
    span = f"{min(lengths):,} to {max(lengths):,}" if len(set(lengths)) > 1 else f"{lengths[0]:,}"
    lines = [f"{counted(len(series), 'series')} of {span} steps, by column {rows.columns.series}"]
    if rows.columns.held_out_by == "series":
        held_out = sum(cut == 0 for cut in cuts)
        lines.append(f"held out: {counted(held_out, 'series')} whole")
    else:
        lines.append(f"held out: the last {rows.columns.validation_share:.0%} of each series")
    if rows.columns.units_of_each:
        lines.append("each series is in units of its own (--units common takes the same for all)")
    paces = Counter(str(one.step) if one.step else "not evenly spaced" for one in series)
    if rows.times is not None:
        lines.append(f"column {rows.columns.time}: {listed(list(paces)[:3], len(paces))}")
    gaps = [one.missing_steps for one in series]
    missing = sum(gap.count for gap in gaps if gap is not None)
    if missing and not rows.columns.fill:
        lines.append(
            f"{missing:,} steps are missing; the rows around are taken as neighbours, or --fill "
            "puts them in"
        )
    added = sum(len(one.values) - one.count for one in series)
    values = sum(gap.count for one in series for gap in one.gaps)
    if rows.columns.fill:
        lines.append(f"filled: {counted(added, 'missing step')}, {counted(values, 'value')}")
    dialect = file.layout.words(file.path) if file.layout and file.path else ""
    return (
        *([f"written with {dialect}"] if dialect else []),
        *_columns(file, rows),
        *lines,
    )


def _columns(file: TableFile, rows: Rows) -> list[str]:
    columns = rows.columns
    lines = [f"target: {names(columns.target)}"] if columns.target else []
    if columns.inputs:
        lines.append(f"inputs: {names(columns.inputs)}")
    if columns.categories or columns.calendar:
        sizes = zip(columns.categories, rows.classes, strict=True)
        classes = [f"{name} ({counted(len(known), 'class')})" for name, known in sizes]
        dated = [f"{part} of {columns.time}" for part in columns.calendar]
        lines.append(f"inputs that are classes: {names([*classes, *dated])}")
    if rows.left_out:
        reasons = [
            f"{name or 'the first column'} ({reason})" for name, reason in rows.left_out.items()
        ]
        lines.append(f"left out: {listed(reasons[:SHOWN], len(reasons))}")
    elif others := file.head.width - len(columns.roles):
        verb = "is" if others == 1 else "are"
        lines.append(f"left out: {counted(others, 'column')} that {verb} not named")
    units = {unit for name, unit in file.units.items() if name in dict(columns.roles)}
    if units:
        lines.append(f"read without the sign that numbers have: {', '.join(sorted(units))}")
    return lines


def _times(rows: Rows) -> str:
    count = counted(rows.count, "row")
    if rows.times is None or not len(rows.times):
        return count
    first, *_, last = rows.clock.write(rows.times[[0, -1]])
    column = f"column {rows.columns.time}" if rows.columns.time else "the first column"
    form = rows.clock.format
    column += f", as {form}" if form else ""
    column += f", in {rows.clock.zone}" if rows.clock.zone else ""
    pace = str(rows.step) if rows.step else "not evenly spaced: each row is a step all the same"
    if rows.step is None and rows.clock.is_aware and rows.clock.zone is None:
        pace += " (--time-zone NAME counts days by the clock there)"
    return f"{count}, from {first} to {last} ({column}), {pace}"


def _missing_steps(rows: Rows) -> list[str]:
    if rows.times is None or rows.step is None or rows.columns.fill:
        return []
    missing = rows.missing_steps
    if missing is None:
        return []
    [after] = rows.clock.write(rows.times[missing.before : missing.before + 1])
    first = "the first after" if missing.count > 1 else "after"
    remedy = "--fill puts them in" if missing.count > 1 else "--fill puts it in"
    return [f"{missing}, {first} {after}; the rows around are taken as neighbours, or {remedy}"]


def _filled(rows: Rows) -> list[str]:
    added = len(rows.values) - rows.count
    lines = [f"filled: {counted(added, 'missing step')}"] if added else []
    for gap in rows.gaps[:SHOWN]:
        on_end = f"the longest gap {counted(gap.longest, 'row')}, from row {gap.row:,} on"
        lines.append(f"filled: {counted(gap.count, 'value')} of {gap.name}, {on_end}")
    if len(rows.gaps) > SHOWN:
        rest = rows.gaps[SHOWN:]
        longest = max(gap.longest for gap in rest)
        total = sum(gap.count for gap in rest)
        lines.append(
            f"filled: {total:,} values of {len(rest):,} more columns, up to {longest:,} on end"
        )
    return lines


def names(columns: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return listed(columns[:SHOWN], len(columns))
