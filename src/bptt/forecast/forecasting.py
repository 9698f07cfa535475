"""How a table goes on: the mean that a network expects, and quantiles of sampled paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bptt.data.batches import Batch, as_tensor
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
from bptt.forecast.spreadsheets import text_cell
from bptt.forecast.steps_ahead import StepsAhead, steps_ahead, steps_ahead_of_each
from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.model.state import State
from bptt.training.runs import files
from bptt.training.runs.run import Run

if TYPE_CHECKING:
    import polars as pl

STEPS_AT_ONCE = 1024
SERIES_AT_ONCE = 64
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
        return next((one.note for one in self.values() if one.note), "")

    def to_polars(self) -> pl.DataFrame:
        """Return the frames of all series, one below the other, with a column that names them."""
        import polars as pl  # noqa: PLC0415

        frames = [
            one.to_polars().select(pl.lit(name).alias(self.column), pl.all())
            for name, one in self.items()
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
    for number, (name, one) in enumerate(each.items()):
        columns = one.columns()
        if number == 0:
            head = ["time", *columns] if column is None else [column, "time", *columns]
            rows.writerow(map(text_cell, head))
        before = [] if column is None else [text_cell(name)]
        for t, time in enumerate(one.labels):
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
    require_whole("paths", paths, 1)
    if seed is not None:
        require_whole("seed", seed, 0)
    shares = require_shares(quantiles)
    d = len(table.columns.target)
    count = len(table) if isinstance(table, Panel) else 1
    at_once = min(count, SERIES_AT_ONCE)
    results = count * d * (2 + len(quantiles)) * 8
    size = steps * (count * DATED + at_once * paths * d * FORECAST + results)
    require_memory(f"{paths:,} paths of {steps:,} steps", size)
    generator = torch.Generator()
    _ = generator.seed() if seed is None else generator.manual_seed(seed)
    sampling = Sampling(steps, paths, generator)
    if isinstance(table, Panel):
        following = steps_ahead_of_each(table, steps, future)
        each = _of_each(net, table, following, sampling, shares)
        assert table.columns.series is not None
        return PanelForecast(table.columns.series, dict(zip(table.ids, each, strict=True)))
    ahead = steps_ahead(table, steps, future)
    with every_unit(net):
        state = _state_at_the_end(net, table)
    x = None if ahead.x is None else as_tensor(ahead.x).unsqueeze(1)
    mean, many = sampling.run(net, x, state)
    last = np.asarray(table.levels[-1])
    means, drawn = table.restore(mean[:, 0], last), table.restore(many[:, :, 0], last)
    return _series_forecast(table, ahead, means, drawn, shares)


class Sampling(NamedTuple):
    """How far to go on, and by how many paths."""

    steps: int
    paths: int
    generator: torch.Generator

    def run(
        self, net: Network, x: Tensor | None, state: State | None
    ) -> tuple[Float[np.ndarray, "steps B d"], Float[np.ndarray, "steps paths B d"]]:
        """Return how sequences go on from a state, in standard units: the mean, and the paths."""
        x = None if x is None else x.to(net.device, net.dtype)
        ahead = net.forecast(
            self.steps, x=x, state=state, paths=self.paths, generator=self.generator
        )
        return ahead.mean.cpu().numpy(), np.moveaxis(ahead.paths.cpu().numpy(), 0, 1)


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


def _of_each(
    net: Network,
    panel: Panel,
    following: Sequence[StepsAhead],
    sampling: Sampling,
    shares: tuple[float, ...],
) -> Iterator[SeriesForecast]:
    """Yield the forecast of each series, many of them computed side by side."""
    for start in range(0, len(panel), SERIES_AT_ONCE):
        chosen = range(start, min(start + SERIES_AT_ONCE, len(panel)))
        state = state_after(net, [_history(panel, one) for one in chosen])
        x = None
        if panel.inputs:
            features = [following[one].x for one in chosen]
            x = torch.stack([as_tensor(each) for each in features if each is not None], dim=1)
        mean, many = sampling.run(net, x, state)
        for column, one in enumerate(chosen):
            last = np.asarray(panel.levels[panel.rows(one)][-1])
            means = panel.restore(one, mean[:, column], last)
            drawn = panel.restore(one, many[:, :, column], last)
            yield _series_forecast(panel, following[one], means, drawn, shares)


def _history(panel: Panel, one: int) -> tuple[np.ndarray, np.ndarray | None]:
    rows = panel.rows(one)
    return panel.y[rows], panel.x(rows)


@torch.no_grad()
def state_after(net: Network, histories: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> State:
    """Return the state after histories of different lengths, each y (T, d) and x (T, i)."""
    lengths = torch.tensor([len(y) for y, _ in histories])
    y = torch.nn.utils.rnn.pad_sequence([as_tensor(y) for y, _ in histories])
    inputs = [as_tensor(x) for _, x in histories if x is not None]
    x = torch.nn.utils.rnn.pad_sequence(inputs) if inputs else None
    batch = Batch(y, x, lengths, is_start=True).of(net)
    with every_unit(net):
        return net.advance(batch.y, x=batch.x, lengths=lengths)


def _series_forecast(
    table: Table | Panel,
    ahead: StepsAhead,
    mean: np.ndarray,
    many: np.ndarray,
    shares: tuple[float, ...],
) -> SeriesForecast:
    quantiles = {share: np.quantile(many, share, axis=1) for share in shares}
    names = table.columns.target
    return SeriesForecast(
        names, ahead.times, mean, quantiles, ahead.labels, ahead.note, table.clock
    )


@torch.no_grad()
def _state_at_the_end(net: Network, table: Table) -> State | None:
    state: State | None = None
    for start in range(0, len(table.y), STEPS_AT_ONCE):
        rows = slice(start, start + STEPS_AT_ONCE)
        x = None if table.x is None else as_tensor(table.x[rows]).unsqueeze(1)
        batch = Batch(as_tensor(table.y[rows]).unsqueeze(1), x, None, state is None).of(net)
        state = net.advance(batch.y, x=batch.x, state=state)
    return state
