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
from jaxtyping import Float, Int

from bptt.data.batches import Batch, Dataset, Padded, as_tensor
from bptt.data.scaling import Scaling, measure, measure_each, standard_blocks
from bptt.data.spool import spool
from bptt.data.tables.calendar_steps import Spacing
from bptt.data.tables.categories import one_hot
from bptt.data.tables.clock import Clock
from bptt.data.tables.columns import Columns
from bptt.data.tables.loading import Rows
from bptt.data.tables.measures import Measures, sizes_of, source_of, table_config
from bptt.data.tables.table_rows import TableFile
from bptt.data.tables.table_words import about_series
from bptt.errors import BpttError, counted
from bptt.model.likelihoods.gaussian import Gaussian

WARM_UP = 1000
"""Steps before the first that is validated, which bring the state up to it."""


@dataclass(frozen=True, eq=False)
class Panel(Dataset):
    """S series, one after another: all their rows are N steps.

    ids: what the series are called. starts: where each begins, and where the last one ends. cuts:
    how many steps of each are to train on; the others are to validate.
    """

    path: Path | None
    sha256: str
    columns: Columns
    ids: tuple[str, ...]
    starts: Int[np.ndarray, " S+1"]
    cuts: Int[np.ndarray, " S"]
    y: Float[np.ndarray, "N d"]  # float32, standard units; of the differences, if asked for
    numbers: Float[np.ndarray, "N i"]  # float32, standard units
    categories: Float[np.ndarray, "N k"]  # which class a row has in each, by the calendar too
    levels: Float[np.ndarray, "N d"]  # float64, the table's own values
    first_levels: Float[np.ndarray, "S d"]  # of the rows that differencing costs, else zeros
    times: np.ndarray | None
    y_scalings: tuple[Scaling, ...]  # of each series, or one for all
    x_scaling: Scaling | None
    classes: tuple[tuple[str, ...], ...]
    clock: Clock
    steps: tuple[Spacing | None, ...]  # of each series: how far apart its rows are
    about: tuple[str, ...] = ()

    unit = "step"
    default_batch = 32
    whole = True

    def __len__(self) -> int:
        """How many series there are."""
        return len(self.ids)

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return source_of(self.path)

    @property
    def likelihood(self) -> Gaussian:
        """A normal distribution for each column of the target."""
        return Gaussian(self.y.shape[1])

    @cached_property
    def sizes(self) -> list[int]:
        """How many classes each category has, and each part of the calendar."""
        return sizes_of(self.columns, self.classes)

    @property
    def inputs(self) -> int:
        """How many features x has."""
        return int(self.numbers.shape[1]) + sum(self.sizes)

    @property
    def lengths(self) -> Int[np.ndarray, " S"]:
        """How many steps each series has."""
        return np.diff(self.starts)

    def scaling(self, one: int) -> Scaling:
        """Return the units of a series' target."""
        return self.y_scalings[one if len(self.y_scalings) > 1 else 0]

    def rows(self, one: int, start: int = 0, stop: int | None = None) -> slice:
        """Return where these steps of a series lie."""
        begin, end = int(self.starts[one]), int(self.starts[one + 1])
        return slice(begin + start, end if stop is None else begin + stop)

    def x(self, rows: slice) -> Float[np.ndarray, "n inputs"] | None:
        """Return the features of rows, if there are any."""
        if not self.inputs:
            return None
        parts = [self.numbers[rows]]
        if self.sizes:
            parts.append(one_hot(self.categories[rows], self.sizes))
        return np.concatenate(parts, axis=1)

    def training_batches(self, batch: int, steps: int | None, seed: int) -> PanelBatches:
        """Return the part of each series to train on, in another order each epoch."""
        return PanelBatches(self, np.zeros_like(self.cuts), np.zeros_like(self.cuts), batch, seed)

    def validation_batches(self, batch: int) -> PanelBatches:
        """Return the end of each series, after steps that bring the state up to it."""
        starts = np.maximum(0, self.cuts - WARM_UP)
        return PanelBatches(self, starts, self.cuts, batch)

    def restore(self, one: int, standard: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return (steps, ..., d) standard values of a series in the table's units.

        before: the level (..., d) that the first step follows; it counts only with differences.
        """
        values = self.scaling(one).original(standard)
        return before + values.cumsum(axis=0) if self.columns.difference else values

    def restore_each(self, one: int, standard: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return standard values (steps, d), each of which follows its own level before it."""
        values = self.scaling(one).original(standard)
        return before + values if self.columns.difference else values

    def levels_before(self, one: int, start: int) -> Float[np.ndarray, "n d"]:
        """Return the level before each step of a series, from `start` on."""
        first = (
            self.first_levels[one] if self.columns.difference else self.levels[self.rows(one)][0]
        )
        levels = np.concatenate([first[None], self.levels[self.rows(one)][:-1]])
        return levels[start:]

    def lasting_inputs(self) -> set[str]:
        """Return which inputs never change within a series."""
        names = (*self.columns.inputs, *self.columns.categories)
        changes = np.zeros(len(names), dtype=bool)
        for one in range(len(self)):
            rows = self.rows(one)
            classes = np.nan_to_num(self.categories[rows][:, : len(self.classes)], nan=-1)
            values = np.concatenate([self.numbers[rows], classes], axis=1)
            changes |= np.ptp(values, axis=0) > 0
        return {name for name, does in zip(names, changes, strict=True) if not does}

    def config(self) -> dict[str, Any]:
        """Return all but the numbers as plain values, which JSON gives back as they are."""
        y = None if self.columns.units_of_each else self.y_scalings[0]
        measures = Measures(y, self.x_scaling, self.classes)
        return table_config(self.path, self.sha256, self.columns, measures)


class PanelBatches(Padded):
    """Series side by side, with losses from some step of each on.

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
        super().__init__(panel.y, None, stops - starts, chosen.tolist(), batch, seed=seed)
        self.panel, self.starts, self.scored, self.stops = panel, starts, scored, stops
        self.steps = int((stops - scored)[chosen].sum())

    def get(self, epoch: int, index: int) -> Batch:
        """Return a batch; with a seed every epoch has its own, in its own order."""
        chosen, panel = self.rows_of(epoch, index), self.panel
        lengths = self.lengths[chosen]
        T, B, d = int(lengths.max()), len(chosen), panel.y.shape[1]
        y = np.zeros((T, B, d), np.float32)
        x = np.zeros((T, B, panel.inputs), np.float32) if panel.inputs else None
        weights = torch.zeros(T, B)
        for column, one in enumerate(chosen.tolist()):
            rows = panel.rows(one, int(self.starts[one]), int(self.stops[one]))
            n = int(lengths[column])
            y[:n, column] = panel.y[rows]
            if x is not None:
                x[:n, column] = panel.x(rows)
            weights[int(self.scored[one] - self.starts[one]) : n, column] = 1
        of_x = None if x is None else as_tensor(x)
        n_of = torch.from_numpy(lengths.copy()) if int(lengths.min()) < T else None
        is_scored = bool((self.scored[chosen] == self.starts[chosen]).all())
        loss_weights = None if is_scored else weights
        return Batch(as_tensor(y), of_x, n_of, is_start=True, loss_weights=loss_weights)


def make_panel(file: TableFile, rows: Rows, measures: Measures | None) -> Panel:
    """Return the series of a table."""
    columns, lost = rows.columns, int(rows.columns.difference)
    d, i = len(columns.target), len(columns.inputs)
    each = list(rows.each_series(file.source))
    ids, series = tuple(name for name, _ in each), [one for _, one in each]
    lengths = np.array([max(0, len(one.values) - lost) for one in series])
    cuts = _cuts(file.source, ids, lengths, columns)
    targets = [one.values[: cut + lost, :d] for one, cut in zip(series, cuts, strict=True) if cut]
    if columns.units_of_each:
        y_scalings = tuple(measure_each(np.asarray(part), lost) for part in targets)
    elif measures is not None and measures.y is not None:
        y_scalings = (measures.y,)
    else:
        y_scalings = (measure(file.source, columns.target, targets, lost),)
    y = spool(
        block
        for k, one in enumerate(series)
        for block in standard_blocks(
            f"series {ids[k]!r} of {file.source}",
            columns.target,
            one.values[:, :d],
            y_scalings[k if len(y_scalings) > 1 else 0],
            lost,
        )
    )
    x_scaling = None if measures is None else measures.x
    numbers = np.empty((int(lengths.sum()), 0), np.float32)
    if columns.inputs:
        parts = [one.values[lost:, d : d + i] for one in series]
        trained = [part[:cut] for part, cut in zip(parts, cuts, strict=True) if cut]
        x_scaling = x_scaling or measure(file.source, columns.inputs, trained)
        numbers = spool(
            block
            for part in parts
            for block in standard_blocks(file.source, columns.inputs, part, x_scaling)
        )
    first = [np.array(one.values[0, :d]) if lost else np.zeros(d) for one in series]
    times = (
        None if rows.times is None else [t[lost:] for one in series if (t := one.times) is not None]
    )
    return Panel(
        file.path,
        file.sha256,
        columns,
        ids,
        np.concatenate([[0], lengths.cumsum()]),
        cuts,
        y,
        numbers,
        spool(one.dated_classes[lost:] for one in series),
        spool(np.asarray(one.values[lost:, :d]) for one in series),
        np.stack(first),
        None if times is None else np.concatenate(times),
        y_scalings,
        x_scaling,
        rows.classes,
        rows.clock,
        _steps(series),
        about_series(file, rows, series, cuts.tolist()),
    )


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
        lost = int(columns.difference)
        raise BpttError(
            f"{source} has {counted(len(short), 'series')} of fewer than {least + lost} rows, such "
            f"as {ids[first]!r} with {int(lengths[first]) + lost}; leave such series out"
        )
    return cuts


def _steps(series: Sequence[Rows]) -> tuple[Spacing | None, ...]:
    """Return the step of each series; of one that is too short to tell, that of most."""
    counts = Counter(type(one.step).__name__ + str(one.step) for one in series if one.step)
    if not counts:
        return tuple(one.step for one in series)
    usual = counts.most_common(1)[0][0]
    common = next(s for one in series if (s := one.step) and type(s).__name__ + str(s) == usual)
    short = 3
    return tuple(
        common if one.step is None and len(one.values) < short else one.step for one in series
    )
