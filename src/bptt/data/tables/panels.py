"""Several series in one table, told apart by a column."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from bptt.data.batches import Batch, Bucketed, Dataset, as_tensor
from bptt.data.scaling import Scaling, measure, measure_each, standard_blocks
from bptt.data.spool import spool
from bptt.data.tables.calendar_steps import Spacing
from bptt.data.tables.clock import Clock
from bptt.data.tables.columns import Columns
from bptt.data.tables.loading import Rows
from bptt.data.tables.measures import Measures, sizes_of, source_of, table_config
from bptt.data.tables.series import Series
from bptt.data.tables.table_rows import TableFile
from bptt.data.tables.table_words import about_series
from bptt.errors import BpttError, counted
from bptt.model.likelihoods.gaussian import Gaussian

WARM_UP = 1000
"""Steps before the first that is validated, which bring the state up to it."""
TELLING = 3
"""Rows that it takes to tell how far apart they are."""


@dataclass(frozen=True, eq=False)
class Panel(Dataset):
    """S series of a table. classes: of each category."""

    path: Path | None
    sha256: str
    columns: Columns
    series: tuple[Series, ...]
    x_scaling: Scaling | None
    classes: tuple[tuple[str, ...], ...]
    clock: Clock
    about: tuple[str, ...] = ()

    unit = "step"
    default_batch = 32
    whole = True

    def __len__(self) -> int:
        """How many series there are."""
        return len(self.series)

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return source_of(self.path)

    @property
    def likelihood(self) -> Gaussian:
        """A normal distribution for each column of the target."""
        return Gaussian(len(self.columns.target))

    @property
    def inputs(self) -> int:
        """How many features x has."""
        return len(self.columns.inputs) + sum(sizes_of(self.columns, self.classes))

    @property
    def ids(self) -> tuple[str, ...]:
        """What the series are called."""
        return tuple(series.name for series in self.series)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " S"]:
        """How many steps each series has."""
        return np.array([len(series) for series in self.series])

    @cached_property
    def cuts(self) -> Int[np.ndarray, " S"]:
        """How many steps of each series are to train on; the others are to validate."""
        return np.array([series.cut for series in self.series])

    def training_batches(self, batch: int, steps: int | None, seed: int) -> PanelBatches:
        """Return the part of each series to train on, in another order each epoch."""
        return PanelBatches(self, np.zeros_like(self.cuts), np.zeros_like(self.cuts), batch, seed)

    def validation_batches(self, batch: int) -> PanelBatches:
        """Return the end of each series, after steps that bring the state up to it."""
        starts = np.maximum(0, self.cuts - WARM_UP)
        return PanelBatches(self, starts, self.cuts, batch)

    def config(self) -> dict[str, Any]:
        """Return all but the numbers as plain values, which JSON gives back as they are."""
        y = None if self.columns.units_of_each else self.series[0].scaling
        measures = Measures(y, self.x_scaling, self.classes)
        return table_config(self.path, self.sha256, self.columns, measures)


class PanelBatches(Bucketed):
    """Series side by side, with losses from one step of each on.

    starts: the first step of each that is read. scored: the first whose loss counts; in training
    those up to the cut are read, in validation those after it too.
    """

    def __init__(
        self,
        panel: Panel,
        starts: Int[np.ndarray, " S"],
        scored: Int[np.ndarray, " S"],
        batch: int,
        seed: int | None = None,
    ) -> None:
        stops = panel.lengths if seed is None else panel.cuts
        chosen = np.flatnonzero(stops > scored)
        super().__init__(stops - starts, chosen, batch, seed)
        self.panel, self.starts, self.scored, self.stops = panel, starts, scored, stops
        self.steps = int((stops - scored)[chosen].sum())

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch; with a seed every epoch has its own, in its own order."""
        chosen, panel = self.rows_of(epoch, index), self.panel
        lengths = self.lengths[chosen]
        T, B, d = int(lengths.max()), len(chosen), len(panel.columns.target)
        y = np.zeros((T, B, d), np.float32)
        x = np.zeros((T, B, panel.inputs), np.float32) if panel.inputs else None
        weights = torch.zeros(T, B)
        for column, row in enumerate(chosen.tolist()):
            series, n = panel.series[row], int(lengths[column])
            start, stop = int(self.starts[row]), int(self.stops[row])
            y[:n, column] = series.y[start:stop]
            if x is not None:
                x[:n, column] = series.x(start, stop)
            weights[int(self.scored[row]) - start : n, column] = 1
        of_x = None if x is None else as_tensor(x)
        n_of = torch.from_numpy(lengths.copy()) if int(lengths.min()) < T else None
        is_scored = bool((self.scored[chosen] == self.starts[chosen]).all())
        loss_weights = None if is_scored else weights
        return Batch(as_tensor(y), of_x, n_of, is_start=True, loss_weights=loss_weights)


def make_panel(file: TableFile, rows: Rows, measures: Measures | None) -> Panel:
    """Return the series of a table."""
    columns, source = rows.columns, file.source
    each = dict(rows.each_series(source))
    ids, parts = tuple(each), tuple(each.values())
    lengths = np.array([max(0, len(part.values) - columns.lost) for part in parts])
    cuts = _cuts(source, ids, lengths, columns)
    y_scalings = _y_scalings(source, parts, cuts, measures)
    x_scaling = _x_scaling(source, parts, cuts, measures)
    names = [f"series {name!r} of {source}" for name in ids]
    arrays = _arrays(source, names, parts, y_scalings, x_scaling)
    y, numbers, classes, levels = (np.split(array, lengths.cumsum()[:-1]) for array in arrays)
    steps, sizes = _steps(parts), tuple(sizes_of(columns, rows.classes))
    series = tuple(
        Series(
            name=ids[k],
            source=names[k],
            y=y[k],
            numbers=numbers[k],
            classes=classes[k],
            sizes=sizes,
            levels=levels[k],
            first_level=part.first_level,
            cut=int(cuts[k]),
            scaling=y_scalings[k],
            is_differenced=columns.difference,
            times=None if part.times is None else part.times[columns.lost :],
            step=steps[k],
        )
        for k, part in enumerate(parts)
    )
    about = about_series(file, rows, parts, cuts.tolist())
    return Panel(
        file.path, file.sha256, columns, series, x_scaling, rows.classes, rows.clock, about
    )


def _y_scalings(
    source: str, parts: Sequence[Rows], cuts: Int[np.ndarray, " S"], measures: Measures | None
) -> Sequence[Scaling]:
    """Return the units of each series' target: its own, those of a run, or those of all."""
    columns = parts[0].columns
    if not columns.units_of_each and measures is not None and measures.y is not None:
        return [measures.y] * len(parts)
    lost = columns.lost
    trained = [part.targets[: cut + lost] for part, cut in zip(parts, cuts, strict=True) if cut]
    if columns.units_of_each:
        return [measure_each(np.asarray(target), lost) for target in trained]
    return [measure(source, columns.target, trained, lost)] * len(parts)


def _x_scaling(
    source: str, parts: Sequence[Rows], cuts: Int[np.ndarray, " S"], measures: Measures | None
) -> Scaling | None:
    """Return the units of the inputs that are numbers, if there are any."""
    columns = parts[0].columns
    if not columns.inputs or (measures is not None and measures.x is not None):
        return None if measures is None else measures.x
    stops = zip(parts, cuts + columns.lost, cuts, strict=True)
    trained = [part.inputs[columns.lost : stop] for part, stop, cut in stops if cut]
    return measure(source, columns.inputs, trained)


def _arrays(
    source: str,
    names: Sequence[str],
    parts: Sequence[Rows],
    y_scalings: Sequence[Scaling],
    x_scaling: Scaling | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the steps of all series, one after another: y, numbers, classes and levels."""
    columns, lost = parts[0].columns, parts[0].columns.lost
    y = spool(
        block
        for name, part, scaling in zip(names, parts, y_scalings, strict=True)
        for block in standard_blocks(name, columns.target, part.targets, scaling, lost)
    )
    numbers = np.empty((len(y), 0), np.float32)
    if x_scaling is not None:
        numbers = spool(
            block
            for part in parts
            for block in standard_blocks(source, columns.inputs, part.inputs[lost:], x_scaling)
        )
    classes = spool(part.dated_classes[lost:] for part in parts)
    levels = spool(np.asarray(part.targets[lost:]) for part in parts)
    return y, numbers, classes, levels


def _cuts(
    source: str, ids: Sequence[str], lengths: Int[np.ndarray, " S"], columns: Columns
) -> Int[np.ndarray, " S"]:
    """Return how many steps of each series are to train on, or raise BpttError."""
    share, S = columns.validation_share, len(ids)
    if columns.held_out_by == "series":
        if S < 2:
            raise BpttError(
                f"{source} has one series; expected at least two, one of them to validate, or "
                'validation_by "time" (--validation-by)'
            )
        held_out = max(1, int(S * share))
        by_name = sorted(range(S), key=lambda k: hashlib.sha256(ids[k].encode()).digest())
        cuts = lengths.copy()
        cuts[by_name[:held_out]] = 0
        least = 2
        short = np.flatnonzero(lengths < least)
    else:
        cuts = lengths - np.maximum(1, (lengths * share).astype(int))
        least = 3
        short = np.flatnonzero(cuts < 2)
    if len(short):
        first = int(short[0])
        lost = columns.lost
        raise BpttError(
            f"{source} has {counted(len(short), 'series')} of fewer than {least + lost} rows, such "
            f"as {ids[first]!r} with {int(lengths[first]) + lost}; leave such series out"
        )
    return cuts


def _steps(parts: Sequence[Rows]) -> tuple[Spacing | None, ...]:
    """Return the step of each series; of one that is too short to tell, that of most."""
    known = [part.step for part in parts if part.step is not None]
    names = Counter(map(_name, known)).most_common(1)
    usual = next((step for step in known if _name(step) == names[0][0]), None)
    return tuple(
        usual if part.step is None and len(part.values) < TELLING else part.step for part in parts
    )


def _name(step: Spacing) -> str:
    return f"{type(step).__name__} {step}"
