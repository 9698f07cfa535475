"""How far off forecasts are: from many origins in what was held out, beside simple methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from bptt.data.tables.calendar_steps import season_of
from bptt.data.tables.panels import Panel
from bptt.data.tables.series import Series
from bptt.data.tables.table import WARM_UP, Table
from bptt.errors import BpttError, require_memory, require_whole
from bptt.forecasting.autoregression import Autoregression
from bptt.forecasting.forecast import (
    FORECAST,
    QUANTILES,
    net_and_table,
    require_shares,
)
from bptt.forecasting.windows import SERIES_AT_ONCE, Sampling, Window, go_on
from bptt.model.network import Network
from bptt.training.runs.run import Run

NETWORK, BEFORE = "network", "the value before"
EXAMPLES, BEFORE_SHOWN = 6, 3
"""Forecasts that are shown, each after this many times as many steps as it has."""


@dataclass(frozen=True)
class Errors:
    """How far off a method is, in the table's units, by steps ahead (horizon, d); MASE (d,).

    mase: the mean absolute error, divided by that of the season before (or the value before, if
    there is no season) within the training part (Hyndman and Koehler 2006); NaN where a series
    never changes there.
    """

    mae: Float[np.ndarray, "horizon d"]
    rmse: Float[np.ndarray, "horizon d"]
    mase: Float[np.ndarray, " d"]


@dataclass(frozen=True)
class Example:
    """A forecast beside what came, (horizon, d), and the levels before it."""

    name: str
    before: Float[np.ndarray, "n d"]
    true: Float[np.ndarray, "horizon d"]
    mean: Float[np.ndarray, "horizon d"]
    low: Float[np.ndarray, "horizon d"]
    high: Float[np.ndarray, "horizon d"]


@dataclass(frozen=True)
class Backtest:
    """What came out: errors by method, and how often the truth lay within the interval.

    windows: how many forecasts were made. skipped: series without enough steps to validate.
    nominal: how often it should. season: in steps, 1 if there is none.
    """

    names: tuple[str, ...]
    horizon: int
    windows: int
    skipped: int
    season: int
    errors: dict[str, Errors]
    coverage: Float[np.ndarray, "horizon d"]
    nominal: float
    examples: tuple[Example, ...] = ()

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table: the heads, then a row for each column and method."""
        heads = ("column", "method", "MAE", "RMSE", "MASE", f"within {self.nominal:.0%}")
        rows: list[tuple[str, ...]] = [heads]
        for k, name in enumerate(self.names):
            for method, errors in self.errors.items():
                numbers = errors.mae[:, k].mean(), np.sqrt((errors.rmse[:, k] ** 2).mean())
                covered = f"{self.coverage[:, k].mean():.1%}" if method == NETWORK else ""
                texts = [f"{number:.4g}" for number in (*numbers, errors.mase[k])]
                rows.append((name, method, *texts, covered))
        return rows


@torch.no_grad()
def backtest(
    model: Network | Run | str | Path,
    table: Any = None,
    horizon: int = 1,
    *,
    origins: int = 20,
    season: int | None = None,
    quantiles: tuple[float, float] = QUANTILES,
    paths: int = 200,
    seed: int | None = None,
) -> Backtest:
    """Forecast from many origins in the part that was not trained on, and compare with the truth.

    model, table: as in `forecast`. horizon: how many steps each forecast has. origins: how many in
    each series, spread over its part to validate; inputs of the steps ahead are the true ones.
    season: in steps; by default what the times say: a day of hours, a week of days, a year of
    months. quantiles: between which the interval lies.

    Beside the network stand the value before, the season before, and an autoregression fitted to
    the training part, with as many lags as the criterion of Akaike chooses.

    >>> import bptt
    >>> import polars as pl
    >>> table = bptt.read_table(pl.DataFrame({"load": np.sin(np.arange(300) / 2)}))
    >>> net = bptt.Network(table.likelihood, hidden=4)
    >>> result = bptt.backtest(net, table, 5, origins=4, paths=20, seed=0)
    >>> result.windows, list(result.errors)
    (4, ['network', 'the value before', 'autoregression'])
    """
    net, table = net_and_table(model, table)
    for name, value in (("horizon", horizon), ("origins", origins)):
        require_whole(name, value, 1)
    if season is not None:
        require_whole("season", season, 1)
    sampling, shares = Sampling.of(horizon, paths, seed), _require_two(quantiles)
    size = SERIES_AT_ONCE * paths * horizon * len(table.columns.target) * FORECAST
    require_memory(f"{paths:,} paths of {horizon:,} steps", size)
    windows = _windows(table, horizon, origins)
    season = _season(table) if season is None else season
    mean, low, high = map(np.stack, zip(*_expected(net, windows, sampling, shares), strict=True))
    true = np.stack([series.levels[t : t + horizon] for series, t, _ in windows])
    scales = _scales(windows, season)
    guesses = {NETWORK: mean} | _simple(table.series, windows, horizon, season)
    return Backtest(
        names=table.columns.target,
        horizon=horizon,
        windows=len(windows),
        skipped=len(table.series) - len({window.series for window in windows}),
        season=season,
        errors={name: _errors(guess - true, scales) for name, guess in guesses.items()},
        coverage=((low <= true) & (true <= high)).mean(0),
        nominal=shares[1] - shares[0],
        examples=_examples(windows, true, mean, low, high),
    )


def _require_two(quantiles: Sequence[float]) -> tuple[float, float]:
    """Return the quantiles between which an interval lies, or raise BpttError."""
    shares = require_shares(quantiles)
    if len(shares) != 2 or shares[0] >= shares[1]:
        raise BpttError(f"quantiles are {shares}; expected two, of which the first is the smaller")
    return shares[0], shares[1]


def _examples(
    windows: Sequence[Window], true: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[Example, ...]:
    """Return a few of the forecasts, from all over the windows."""
    chosen = np.linspace(0, len(windows) - 1, min(EXAMPLES, len(windows))).astype(int)
    examples, before = [], BEFORE_SHOWN * true.shape[1]
    for k in chosen.tolist():
        series, origin, _ = windows[k]
        past = series.levels[max(0, origin - before) : origin]
        examples.append(Example(series.name, past, true[k], mean[k], low[k], high[k]))
    return tuple(examples)


def _errors(
    off: Float[np.ndarray, "windows horizon d"], scales: Float[np.ndarray, "windows d"]
) -> Errors:
    """Return how far off a method was."""
    size = np.abs(off)
    mase = _mean_of_numbers(size / scales[:, None])
    return Errors(size.mean(0), np.sqrt((off**2).mean(0)), mase)


def _mean_of_numbers(values: Float[np.ndarray, "windows horizon d"]) -> Float[np.ndarray, " d"]:
    """Return the mean of those that are numbers; NaN where none is."""
    is_number = np.isfinite(values)
    count = is_number.sum((0, 1))
    total = np.where(is_number, values, 0).sum((0, 1))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _windows(table: Table | Panel, horizon: int, origins: int) -> list[Window]:
    """Return the forecasts to make, or raise BpttError if there is no room for any."""
    windows: list[Window] = []
    for series in table.series:
        first, last = max(1, series.cut), len(series) - horizon
        if last - first + 1 >= origins and series.cut < len(series):
            starts = np.linspace(first, last, origins).round().astype(int)
            windows += [Window(series, start) for start in starts.tolist()]
    if not windows:
        most = max(len(series) - max(1, series.cut) for series in table.series)
        raise BpttError(
            f"{table.source} has {most:,} steps to validate on; expected at least "
            f"{horizon + origins - 1:,}, for {origins} origins with {horizon} steps after each: "
            "take fewer (--origins, --horizon)"
        )
    return windows


def _season(table: Table | Panel) -> int:
    """Return how many steps make a season, by the times of the table."""
    return season_of(next((s.step for s in table.series if s.step is not None), None))


def _expected(
    net: Network, windows: Sequence[Window], sampling: Sampling, shares: tuple[float, float]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each window the mean, and between which values most paths lie, (horizon, d)."""
    known = (window.with_true_inputs(sampling.steps) for window in windows)
    for mean, paths in go_on(net, known, sampling, WARM_UP):
        yield mean, *np.quantile(paths, shares, axis=1)


def _simple(
    every: Sequence[Series], windows: Sequence[Window], horizon: int, season: int
) -> dict[str, np.ndarray]:
    """Return what simple methods expect, (windows, horizon, d)."""
    before = [series.levels_before(t, t + 1) for series, t, _ in windows]
    guesses = {BEFORE: np.repeat(np.stack(before), horizon, axis=1)}
    if season > 1 and all(window.origin >= season for window in windows):
        steps = np.arange(horizon) % season
        guesses["the season before"] = np.stack(
            [series.levels[t - season + steps] for series, t, _ in windows]
        )
    model = Autoregression.fit([series.y[: series.cut] for series in every if series.cut], season)
    ahead = model.forecast([series.y[:t] for series, t, _ in windows], horizon)
    guesses["autoregression"] = np.stack(
        [series.restore(guess, t) for (series, t, _), guess in zip(windows, ahead, strict=True)]
    )
    return guesses


def _scales(windows: Sequence[Window], season: int) -> Float[np.ndarray, "windows d"]:
    """Return of each window's series how far off the season before is where it was trained on."""
    scales: dict[Series, np.ndarray] = {}
    for series, _, _ in windows:
        if series not in scales:
            part = series.levels[: series.cut] if series.cut else series.levels
            lag = season if season < len(part) else 1
            scale = np.abs(part[lag:] - part[:-lag]).mean(0)
            scales[series] = np.where(scale > 0, scale, np.nan)
    return np.stack([scales[window.series] for window in windows])
