"""Several series in one table, with a column that says what each of them is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bptt.data.scaling import measure
from bptt.data.sequences.labels import (
    Labelled,
    are_held_out,
    code_labels,
    require_both_parts,
)
from bptt.data.spool import spool
from bptt.data.tables.categories import read_classes
from bptt.data.tables.columns import Columns
from bptt.data.tables.loading import Rows
from bptt.data.tables.measures import Measures, features, sizes_of, table_config
from bptt.data.tables.table_rows import TableFile
from bptt.data.tables.table_words import about_series
from bptt.errors import BpttError, counted

WHOLE_NUMBER = re.compile(r"[+-]?\d+")
WRONG = {"text": "has text", "infinite": "is infinite, or too large,", "missing": "is missing"}
"""What a label of numbers has that is none."""


@dataclass(frozen=True, eq=False)
class LabelledTable(Labelled):
    """The series of a table with the label of each; x (M, features) in standard units.

    columns: with the inputs and the dialect as they were found. measures: what x and the labels are
    measured by. about: what is read, left out and held out, in sentences.
    """

    columns: Columns = field(default_factory=Columns)
    measures: Measures = field(default_factory=lambda: Measures(None, None))
    about: tuple[str, ...] = ()

    def config(self) -> dict[str, Any]:
        """Return where it is, what its columns are, and what they are measured by."""
        of_table = table_config(self.path, self.sha256, self.columns, self.measures)
        return super().config() | of_table | {"kind": "labelled"}


def make_labelled(file: TableFile, rows: Rows, measures: Measures | None) -> LabelledTable:
    """Return the series of a table with their labels, or raise BpttError.

    measures: those of the table that a network was trained on, which decide what a label is.
    """
    columns = rows.columns
    classes = None if measures is None else measures.labels or None
    labels, names = code_labels(file.source, _labels(file, rows, measures), classes)
    series = [each for _, each in rows.each_series(file.source)]
    if len(series) < 2:
        raise BpttError(
            f"{file.source} has one series; expected at least two, one of them to validate"
        )
    held_out = are_held_out((each.values.tobytes() for each in series), columns.validation_share)
    require_both_parts(file.source, held_out)
    numbers = [each.values[:, : len(columns.inputs)] for each in series]
    x_scaling = None if measures is None else measures.x
    if columns.inputs and x_scaling is None:
        trained = [part for part, is_out in zip(numbers, held_out, strict=True) if not is_out]
        x_scaling = measure(file.source, columns.inputs, trained)
    sizes = sizes_of(columns, rows.classes)
    x = spool(
        block
        for each, part in zip(series, numbers, strict=True)
        for block in features(
            file.source, columns.inputs, part, x_scaling, each.dated_classes, sizes
        )
    )
    lengths = np.array([len(part) for part in numbers])
    kind = counted(len(names), "class") if names else "a number"
    return LabelledTable(
        x=x,
        lengths=lengths,
        labels=labels,
        held_out=held_out,
        classes=names,
        path=file.path,
        sha256=file.sha256,
        columns=columns,
        measures=Measures(None, x_scaling, rows.classes, names),
        about=(
            f"label: {columns.label} ({kind})",
            *about_series(file, rows, series, np.where(held_out, 0, lengths).tolist()),
        ),
    )


def _labels(file: TableFile, rows: Rows, measures: Measures | None) -> Sequence[str | float]:
    """Return the label of each series: texts for classes, or real numbers; or raise BpttError."""
    name, series = rows.columns.label, rows.series
    assert name is not None
    assert series is not None
    classes, texts = read_classes(file, name)
    for row in np.flatnonzero(np.isnan(classes))[:1]:
        raise BpttError(
            f"column {name!r} (label) of {file.source} is missing in row {row + 1}; every row "
            "needs the label of its series"
        )
    _, first = np.unique(series, return_index=True)
    for row in np.flatnonzero(classes != classes[first][series])[:1]:
        at = first[series[row]]
        before, after = (texts[int(classes[k])] for k in (at, row))
        raise BpttError(
            f"column {name!r} (label) of {file.source} is {before!r} in row {at + 1} and "
            f"{after!r} in row {row + 1}, both of series {rows.ids[series[row]]!r}; expected one "
            "label for all rows of a series"
        )
    if _are_numbers(file, name, texts) if measures is None else not measures.labels:
        values, wrong = file.read([name])
        for (_, what), where in wrong.items():
            raise BpttError(
                f"column {name!r} (label) of {file.source} {WRONG[what]} in {where}, "
                f"{where.example!r}; expected finite numbers in every row, as in others, or texts"
            )
        return [float(value) for value in values[first, 0]]
    return [texts[int(number)] for number in classes[first]]


def _are_numbers(file: TableFile, name: str, texts: Sequence[str]) -> bool:
    """Return whether labels are numbers, and no classes: if some of them are not whole."""
    kind = file.kinds[name]
    if kind.is_numeric():
        return bool(kind.is_float())
    if str(kind) != "String" or file.layout is None:
        return False
    numbers = np.isfinite(file.numbers_of(name, texts))
    return any(
        is_number and any(map(str.isdigit, text)) and not WHOLE_NUMBER.fullmatch(text)
        for text, is_number in zip(texts, numbers.tolist(), strict=True)
    )
