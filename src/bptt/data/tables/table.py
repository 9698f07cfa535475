"""Tables in, series of numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bptt.data.batches import Dataset, Streams
from bptt.data.scaling import Scaling, measure, standard_blocks
from bptt.data.spool import spool
from bptt.data.tables.calendar_steps import Spacing
from bptt.data.tables.clock import Clock
from bptt.data.tables.columns import Columns
from bptt.data.tables.loading import Rows
from bptt.data.tables.measures import Measures, features, sizes_of, source_of, table_config
from bptt.data.tables.series import Series
from bptt.data.tables.table_rows import TableFile
from bptt.data.tables.table_words import about_rows
from bptt.errors import BpttError, counted
from bptt.model.likelihoods.gaussian import Gaussian

WARM_UP, VALIDATION_STEPS = 1000, 1024
NO_CLOCK = Clock()


@dataclass(frozen=True, eq=False)
class Table(Dataset):
    """A table as a series of N steps: those before `cut` to train on, the rest to validate."""

    path: Path | None
    sha256: str
    columns: Columns  # with the target, the format of its times and the dialect as they were found
    y_scaling: Scaling
    x_scaling: Scaling | None
    y: np.ndarray  # (N, d) float32, standard units; of the differences, if columns.difference
    x: np.ndarray | None  # (N, i) float32, numbers in standard units, then classes, one-hot
    levels: np.ndarray  # (N, d) float64, the table's own values
    first_level: np.ndarray  # (d,) float64, those of the row that differencing costs, else zeros
    times: np.ndarray | None  # (N,) float64, or datetime64 in UTC if the clock has a zone
    cut: int
    clock: Clock = NO_CLOCK  # how the times are written
    step: Spacing | None = None  # how far apart they are, if that is even
    about: tuple[str, ...] = ()  # what is modelled, what is left out and was filled, in sentences
    classes: tuple[tuple[str, ...], ...] = ()  # of each category

    unit = "step"

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return source_of(self.path)

    @property
    def default_batch(self) -> int:  # type: ignore[override]
        """As many streams as leave a thousand steps to each."""
        return min(32, max(1, self.cut // 1000))

    @property
    def likelihood(self) -> Gaussian:
        """A normal distribution for each column of the target."""
        return Gaussian(self.y.shape[1])

    @property
    def inputs(self) -> int:
        """How many features x has."""
        return len(self.columns.inputs) + sum(sizes_of(self.columns, self.classes))

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Streams:
        """Return the first part, in time, as streams."""
        x = None if self.x is None else self.x[: self.cut]
        return Streams(self.y[: self.cut], x, batch, steps)

    def validation_batches(self, batch: int) -> Streams:
        """Return the last part, in time, after some steps that bring the state up to it."""
        start = max(0, self.cut - WARM_UP)
        x = None if self.x is None else self.x[start:]
        return Streams(self.y[start:], x, 1, VALIDATION_STEPS, self.cut - start)

    @cached_property
    def series(self) -> tuple[Series]:
        """It as one series, with x as its numbers."""
        none = np.empty((len(self.y), 0), np.float32)
        series = Series(
            name="",
            source=self.source,
            y=self.y,
            numbers=none if self.x is None else self.x,
            classes=none,
            sizes=(),
            levels=self.levels,
            first_level=self.first_level,
            cut=self.cut,
            scaling=self.y_scaling,
            is_differenced=self.columns.difference,
            times=self.times,
            step=self.step,
        )
        return (series,)

    def config(self) -> dict[str, Any]:
        """Return all but the numbers as plain values, which JSON gives back as they are."""
        measures = Measures(self.y_scaling, self.x_scaling, self.classes)
        return table_config(self.path, self.sha256, self.columns, measures)


def make_table(file: TableFile, rows: Rows, measures: Measures | None) -> Table:
    """Return a table of one series."""
    columns, times, lost = rows.columns, rows.times, rows.columns.lost
    cut = _cut(file.source, max(0, len(rows.values) - lost), columns.validation_share)
    y_scaling, x_scaling = (None, None) if measures is None else (measures.y, measures.x)
    targets, inputs = rows.targets, rows.inputs[lost:]
    y_scaling = y_scaling or measure(file.source, columns.target, [targets[: cut + lost]], lost)
    y = spool(standard_blocks(file.source, columns.target, targets, y_scaling, lost))
    if columns.inputs:
        x_scaling = x_scaling or measure(file.source, columns.inputs, [inputs[:cut]])
    sizes = sizes_of(columns, rows.classes)
    x = None
    if columns.inputs or sizes:
        classes = rows.dated_classes[lost:]
        x = spool(features(file.source, columns.inputs, inputs, x_scaling, classes, sizes))
    return Table(
        file.path,
        file.sha256,
        columns,
        y_scaling,
        x_scaling,
        y,
        x,
        targets[lost:],
        rows.first_level,
        None if times is None else times[lost:],
        cut,
        rows.clock,
        rows.step,
        about_rows(file, rows),
        rows.classes,
    )


def _cut(source: str, count: int, share: float) -> int:
    """Return where the validation part begins."""
    cut = count - int(count * share)
    if not 2 <= cut < count:
        got = f"{counted(cut, 'row')} to train on and {count - cut} to validate"
        got += f" at validation_share {share:g}"
        raise BpttError(f"{source} has {got}; expected at least 2 and 1")
    return cut
