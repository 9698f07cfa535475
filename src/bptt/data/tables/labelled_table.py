"""Several series in one table, with a column that says what each of them is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bptt.data.scaling import measure
from bptt.data.sequences.labels import (
    Labelled,
    are_held_out,
    require_both_parts,
    with_labels,
)
from bptt.data.spool import spool
from bptt.data.tables.categories import read_classes
from bptt.data.tables.columns import Columns
from bptt.data.tables.loading import Rows
from bptt.data.tables.measures import Measures, features, sizes_of, table_config
from bptt.data.tables.table_rows import TableFile
from bptt.data.tables.table_words import about_series
from bptt.errors import BpttError

WHOLE_NUMBER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, eq=False)
class LabelledTable(Labelled):
    """The series of a table, x in standard units, with the label of each.

    measures: what x and the labels are measured by.
    """

    columns: Columns = field(default_factory=Columns)
    measures: Measures = field(default_factory=lambda: Measures(None, None))
    about: tuple[str, ...] = ()

    def config(self) -> dict[str, Any]:
        """Return where it is, what its columns are, and what they are measured by."""
        of_table = table_config(self.path, self.sha256, self.columns, self.measures)
        return super().config() | of_table | {"kind": "labelled"}


def make_labelled(file: TableFile, rows: Rows, measures: Measures | None) -> LabelledTable:
    """Return the series of a table with their labels."""
    columns = rows.columns
    labels = _labels(file, rows)
    series = [one for _, one in rows.each_series(file.source)]
    if len(series) < 2:
        raise BpttError(
            f"{file.source} has one series; expected at least two, one of them to validate"
        )
    held_out = are_held_out((one.values.tobytes() for one in series), columns.validation_share)
    require_both_parts(file.source, held_out)
    numbers = [one.values[:, : len(columns.inputs)] for one in series]
    x_scaling = None if measures is None else measures.x
    if columns.inputs and x_scaling is None:
        trained = [part for part, is_out in zip(numbers, held_out, strict=True) if not is_out]
        x_scaling = measure(file.source, columns.inputs, trained)
    sizes = sizes_of(columns, rows.classes)
    x = spool(
        block
        for one, part in zip(series, numbers, strict=True)
        for block in features(
            file.source, columns.inputs, part, x_scaling, one.dated_classes, sizes
        )
    )
    lengths = np.array([len(part) for part in numbers])
    known = list(measures.labels) if measures is not None and measures.labels else None
    data = with_labels(file.source, x, lengths, labels, held_out, known)
    cuts = np.where(held_out, 0, lengths).tolist()
    parts = {each.name: getattr(data, each.name) for each in fields(Labelled)}
    return LabelledTable(
        **parts | {"path": file.path, "sha256": file.sha256},
        columns=columns,
        measures=Measures(None, x_scaling, rows.classes, data.classes),
        about=about_series(file, rows, series, cuts),
    )


def _labels(file: TableFile, rows: Rows) -> Sequence[str | float]:
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
        one = series[row]
        before, after = (texts[int(classes[at])] for at in (first[one], row))
        raise BpttError(
            f"column {name!r} (label) of {file.source} is {before!r} in row {first[one] + 1} and "
            f"{after!r} in row {row + 1}, both of series {rows.ids[one]!r}; expected one label for "
            "all rows of a series"
        )
    if not all(map(WHOLE_NUMBER.fullmatch, texts)):
        values, wrong = file.read([name])
        if not wrong:
            return [float(value) for value in values[first, 0]]
    return [texts[int(number)] for number in classes[first]]
