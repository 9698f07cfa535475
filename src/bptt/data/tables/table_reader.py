"""A table, from a file or a frame, as one series or several."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType
from typing import Any

import numpy as np

from bptt.data.tables.columns import Columns
from bptt.data.tables.labelled_table import LabelledTable, make_labelled
from bptt.data.tables.loading import load_rows
from bptt.data.tables.measures import Measures, require_measures
from bptt.data.tables.panels import Panel, make_panel
from bptt.data.tables.table import Table, make_table
from bptt.data.tables.table_rows import open_table
from bptt.errors import BpttError, counted, require_kind


def read_table(
    data: Any,
    columns: Columns | None = None,
    *,
    measures: Measures | None = None,
    **named: Any,
) -> Table | Panel | LabelledTable:
    r"""Read a table in standard units, which are those of its training part.

    data: a .csv, .tsv or .parquet file, or a frame of polars or pandas.
    columns: which columns are what, and how they are prepared; or as arguments, `named` as those
    of `bptt.Columns` are.
    measures: those of the table that a run was trained on, to use instead.

    A table of one series comes back as a Table; of several, told apart by `series`, as a Panel; and
    with a `label` of each, as a LabelledTable.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "power.csv")
    ...     _ = path.write_text("day,load\n2026-01-01,5\n2026-01-02,7\n2026-01-03,9\n")
    ...     table = read_table(path, time="day", validation_share=0.4)
    >>> table.columns.target, table.y_scaling, table.y.tolist()
    (('load',), Scaling(mean=(6.0,), scale=(1.0,)), [[-1.0], [1.0], [3.0]])
    """
    require_kind("columns", columns, (Columns, NoneType), "bptt.Columns(...), or None")
    require_kind("measures", measures, (Measures, NoneType), "those of a run, or None")
    columns = _columns(columns, named)
    with open_table(data, columns.dialect) as file, np.errstate(over="ignore", invalid="ignore"):
        classes = None if measures is None else measures.classes
        if classes is not None and len(classes) != len(columns.categories):
            raise BpttError(
                f"measures have {counted(len(classes), 'category')}; {file.source} is read with "
                f"{len(columns.categories)}: name the columns of that run"
            )
        rows = load_rows(file, columns, classes=classes)
        if measures is not None:
            require_measures(file.source, rows.columns, measures)
        if columns.label is not None:
            return make_labelled(file, rows, measures)
        if columns.series is not None:
            return make_panel(file, rows, measures)
        return make_table(file, rows, measures)


def _columns(columns: Columns | None, named: dict[str, Any]) -> Columns:
    """Return the columns that are asked for, one way or the other."""
    if not named:
        return columns or Columns()
    if columns is not None:
        raise BpttError(
            f"read_table got columns, and {', '.join(named)} beside them; expected one or the other"
        )
    try:
        return Columns(**named)
    except TypeError:
        known = {field.name for field in fields(Columns)}
        wrong = sorted(set(named) - known)
        raise BpttError(
            f"read_table has no argument {wrong[0]!r}; expected some of {', '.join(sorted(known))}"
        ) from None
