"""How a table goes on: the mean that a network expects, and quantiles of sampled paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from bptt.data.tables.clock import Clock
from bptt.data.tables.panels import Panel
from bptt.data.tables.table import Table
from bptt.errors import (
    BpttError,
    require_kind,
    require_memory,
    require_number,
    require_several,
    require_whole,
)
from bptt.forecasting.spreadsheets import text_cell
from bptt.forecasting.steps_ahead import steps_ahead
from bptt.forecasting.windows import SERIES_AT_ONCE, Sampling, Window, go_on
from bptt.model.network import Network
from bptt.training.runs import files
from bptt.training.runs.run import Run

if TYPE_CHECKING:
    import polars as pl

DATED, FORECAST = 100, 28
"""Bytes for the date of a step, and for a number in one of the paths: drawn, restored, sorted."""
QUANTILES = (0.05, 0.95)
UNDATED = Clock()


@dataclass(frozen=True)
class SeriesForecast:
    """How a series goes on, in the table's units, (steps, d); quantiles of the sampled paths.

    times: of the steps; in UTC if the table's clock has a zone; numbers from 1 if it has none.
    labels: the times, or numbers, as the table writes them. note: what is uncertain about them.
    """

    names: tuple[str, ...]
    times: np.ndarray
    mean: Float[np.ndarray, "steps d"]
    quantiles: dict[float, Float[np.ndarray, "steps d"]]
    labels: list[str]
    note: str = ""
    clock: Clock = UNDATED

    def columns(self) -> dict[str, np.ndarray]:
        """Return what is expected: by column its mean and its quantiles, each (steps,)."""
        parts = {"mean": self.mean} | {
            f"{100 * share:g}%": values for share, values in sorted(self.quantiles.items())
        }
        return {
            f"{name} {part}": values[:, k]
            for k, name in enumerate(self.names)
            for part, values in parts.items()
        }

    def to_polars(self) -> pl.DataFrame:
        """Return a frame with a row a step: its time, and for each column the mean and quantiles.

        Times tell their zone if those of the table did.
        """
        import polars as pl  # noqa: PLC0415

        is_local = self.times.dtype.kind == "M" and not self.clock.is_aware
        times = pl.Series("time", self.clock.wall(self.times) if is_local else self.times)
        if self.clock.is_aware:
            zone = self.clock.zone if self.clock.zone and ":" not in self.clock.zone else "UTC"
            times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return pl.DataFrame([times, *(pl.Series(*each) for each in self.columns().items())])

    def to_pandas(self) -> Any:
        """Return the same as a frame of pandas."""
        return _as_pandas(self.to_polars())

    def write(self, path: Path) -> None:
        """Write a CSV file: a row a step; for every column the mean and the quantiles."""
        _write_csv(path, None, {"": self})


class PanelForecast(Mapping[str, SeriesForecast]):
    """How each series of a panel goes on, by what it is called.

    column: the one that tells the series apart.
    """

    def __init__(self, column: str, each: Mapping[str, SeriesForecast]) -> None:
        self.column, self._each = column, dict(each)

    def __getitem__(self, name: str) -> SeriesForecast:
        """Return that of a series."""
        return self._each[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over what the series are called."""
        return iter(self._each)

    def __len__(self) -> int:
        """How many series there are."""
        return len(self._each)

    @property
    def note(self) -> str:
        """What is uncertain about the times of a series, or nothing."""
        return next((ahead.note for ahead in self.values() if ahead.note), "")

    def to_polars(self) -> pl.DataFrame:
        """Return the frames of all series, one below the other, with a column that names them."""
        import polars as pl  # noqa: PLC0415

        frames = [
            ahead.to_polars().select(pl.lit(name).alias(self.column), pl.all())
            for name, ahead in self.items()
        ]
        return pl.concat(frames, how="vertical_relaxed")

    def to_pandas(self) -> Any:
        """Return the same as a frame of pandas."""
        return _as_pandas(self.to_polars())

    def write(self, path: Path) -> None:
        """Write a CSV file: a row for each step of each series."""
        _write_csv(path, self.column, self)


def _as_pandas(frame: pl.DataFrame) -> Any:
    try:
        import pandas as pd  # noqa: PLC0415
    except ImportError:
        raise BpttError("pandas is not installed; pip install pandas, or use to_polars()") from None
    columns = {}
    for column in frame:
        zone = getattr(column.dtype, "time_zone", None)
        values = column.to_numpy() if column.dtype.is_numeric() or zone is None else None
        if values is None:
            naive = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
            values = pd.Series(naive).dt.tz_localize("UTC").dt.tz_convert(zone)
        columns[column.name] = values
    return pd.DataFrame(columns)


def _write_csv(path: Path, column: str | None, each: Mapping[str, SeriesForecast]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    for number, (name, ahead) in enumerate(each.items()):
        columns = ahead.columns()
        if number == 0:
            head = ["time", *columns] if column is None else [column, "time", *columns]
            rows.writerow(map(text_cell, head))
        before = [] if column is None else [text_cell(name)]
        for t, time in enumerate(ahead.labels):
            values = (f"{part[t]:.6g}" for part in columns.values())
            rows.writerow([*before, text_cell(time), *values])
    files.write(Path(path), text.getvalue(), files.FORECAST)


def forecast(
    model: Network | Run | str | Path,
    table: Any = None,
    steps: int = 1,
    *,
    future: Any = None,
    quantiles: Sequence[float] = QUANTILES,
    paths: int = 500,
    seed: int | None = None,
) -> SeriesForecast | PanelForecast:
    """Return how a table goes on after its last row, in its own units; of a panel, each series.

    model: a run, or its folder; or a network that was trained on the table.
    table: what to go on from, as `read_table` gives it. With a run also a file or a frame with the
    columns that it was trained on; None for the run's own table.
    future: a table, a file or a frame with the inputs of the steps ahead, for a network that has
    inputs which change; with their times, if the table has them, which have to follow its last one.
    quantiles: which shares of the sampled paths are to lie below. paths: how many are sampled.

    >>> import bptt
    >>> import polars as pl
    >>> table = bptt.read_table(pl.DataFrame({"load": [5.0, 7, 6, 8, 5, 7, 6, 8, 5, 7, 6, 8]}))
    >>> net = bptt.Network(table.likelihood, hidden=4)
    >>> ahead = bptt.forecast(net, table, 3, quantiles=[0.1, 0.9], paths=20, seed=0)
    >>> ahead.mean.shape, list(ahead.columns())
    ((3, 1), ['load mean', 'load 10%', 'load 90%'])
    """
    net, table = net_and_table(model, table)
    require_whole("steps", steps, 1)
    sampling, shares = Sampling.of(steps, paths, seed), require_shares(quantiles)
    _require_memory(table, sampling, len(shares))
    ahead = steps_ahead(table, steps, future)
    windows = (
        Window(series, len(series), after.x)
        for series, after in zip(table.series, ahead, strict=True)
    )
    each = [
        SeriesForecast(
            table.columns.target,
            after.times,
            mean,
            {share: np.quantile(drawn, share, axis=1) for share in shares},
            after.labels,
            after.note,
            table.clock,
        )
        for after, (mean, drawn) in zip(ahead, go_on(net, windows, sampling), strict=True)
    ]
    if table.columns.series is None:
        return each[0]
    names = (series.name for series in table.series)
    return PanelForecast(table.columns.series, dict(zip(names, each, strict=True)))


def _require_memory(table: Table | Panel, sampling: Sampling, quantiles: int) -> None:
    """Raise BpttError if this machine has too little for the paths and what comes of them."""
    count, d = len(table.series), len(table.columns.target)
    drawn = min(count, SERIES_AT_ONCE) * sampling.paths * d * FORECAST
    results = count * (DATED + d * (2 + quantiles) * 8)
    words = f"{sampling.paths:,} paths of {sampling.steps:,} steps"
    require_memory(words, sampling.steps * (drawn + results))


def require_shares(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles, or raise BpttError unless each is a share of the paths."""
    require_several("quantiles", quantiles, "numbers between 0 and 1")
    for share in quantiles:
        require_number("a quantile", share, "a number between 0 and 1")
        if not 0 < share < 1:
            raise BpttError(f"a quantile is {share}; expected a number between 0 and 1")
    return tuple(float(share) for share in quantiles)


def net_and_table(model: Network | Run | str | Path, table: Any) -> tuple[Network, Table | Panel]:
    """Return the network, and the table read as its own was; or raise BpttError."""
    require_kind("model", model, (Network, Run, str, Path), "a Network, a Run or its folder")
    if isinstance(model, Network):
        require_kind("table", table, (Table, Panel), "what bptt.read_table returns")
        table.require_network(model)
        return model, table
    run = Run.open(model) if isinstance(model, str | Path) else model
    run.require_table()
    if not isinstance(table, Table | Panel):
        table = run.read_table(run.table_path() if isinstance(table, NoneType) else table)
    net = run.network().eval()
    table.require_network(net)
    return net, table
