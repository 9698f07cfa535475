"""How far off forecasts are: from many origins in what was held out, beside simple methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from bptt.data.batches import as_tensor
from bptt.data.scaling import Scaling
from bptt.data.tables.calendar_steps import Spacing, season_of
from bptt.data.tables.panels import Panel
from bptt.data.tables.table import WARM_UP, Table
from bptt.errors import BpttError, require_memory, require_whole
from bptt.forecast.autoregression import Autoregression
from bptt.forecast.forecasting import (
    FORECAST,
    QUANTILES,
    Sampling,
    net_and_table,
    require_shares,
    state_after,
)
from bptt.model.network import Network
from bptt.training.runs.run import Run

NETWORK, BEFORE = "network", "the value before"
AT_ONCE = 64
EXAMPLES = 6


class Series(NamedTuple):
    """One series: in standard units y (T, d) and x (T, i), and the table's own values.

    before: the level before each step (T, d). cut: where the part to validate begins.
    """

    name: str
    y: np.ndarray
    x: np.ndarray | None
    levels: np.ndarray
    before: np.ndarray
    cut: int
    scaling: Scaling
    is_differenced: bool

    def restore(self, standard: np.ndarray, origin: int) -> np.ndarray:
        """Return standard values (steps, ..., d) from an origin on in the table's units."""
        values = self.scaling.original(standard)
        return self.before[origin] + values.cumsum(axis=0) if self.is_differenced else values


class Window(NamedTuple):
    """A forecast that is to be made: of a series, from before step `origin` on."""

    series: Series
    origin: int


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
    for name, value in (("horizon", horizon), ("origins", origins), ("paths", paths)):
        require_whole(name, value, 1)
    for name, whole in (("season", season), ("seed", seed)):
        if whole is not None:
            require_whole(name, whole, 1 if name == "season" else 0)
    shares = require_shares(quantiles)
    if len(shares) != 2 or shares[0] >= shares[1]:
        raise BpttError(f"quantiles are {shares}; expected two, of which the first is the smaller")
    d = len(table.columns.target)
    require_memory(
        f"{paths:,} paths of {horizon:,} steps", AT_ONCE * paths * horizon * d * FORECAST
    )
    every = list(series_of(table))
    windows = _windows(table, every, horizon, origins)
    season = _season(table) if season is None else season
    generator = torch.Generator()
    _ = generator.seed() if seed is None else generator.manual_seed(seed)
    sampling = Sampling(horizon, paths, generator)
    mean, low, high = map(np.stack, zip(*_forecasts(net, windows, sampling, shares), strict=True))
    true = np.stack([one.levels[t : t + horizon] for one, t in windows])
    guesses = {NETWORK: mean} | _simple(every, windows, horizon, season)
    scales = _scales(windows, season)
    covered = (low <= true) & (true <= high)
    errors = {name: _errors(guess - true, scales) for name, guess in guesses.items()}
    shown = np.linspace(0, len(windows) - 1, min(EXAMPLES, len(windows))).astype(int)
    examples = (
        Example(
            windows[k].series.name,
            windows[k].series.levels[max(0, windows[k].origin - 3 * horizon) : windows[k].origin],
            true[k],
            mean[k],
            low[k],
            high[k],
        )
        for k in shown.tolist()
    )
    return Backtest(
        table.columns.target,
        horizon,
        len(windows),
        len(every) - len({id(one.y) for one, _ in windows}),
        season,
        errors,
        covered.mean(0),
        shares[1] - shares[0],
        tuple(examples),
    )


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


def series_of(table: Table | Panel) -> Iterator[Series]:
    """Yield each series of a table."""
    differenced = table.columns.difference
    if isinstance(table, Table):
        first = table.first_level if differenced else table.levels[0]
        before = np.concatenate([first[None], table.levels[:-1]])
        parts = table.y, table.x, table.levels, before, table.cut, table.y_scaling
        yield Series("", *parts, differenced)
        return
    for one, name in enumerate(table.ids):
        rows = table.rows(one)
        before, cut = table.levels_before(one, 0), int(table.cuts[one])
        scaling = table.scaling(one)
        levels = table.levels[rows]
        parts = table.y[rows], table.x(rows), levels, before, cut, scaling
        yield Series(name, *parts, differenced)


def _windows(
    table: Table | Panel, every: Sequence[Series], horizon: int, origins: int
) -> list[Window]:
    """Return the forecasts to make, or raise BpttError if there is no room for any."""
    windows: list[Window] = []
    for one in every:
        first, last = max(1, one.cut), len(one.y) - horizon
        if last - first + 1 >= origins and one.cut < len(one.y):
            starts = np.linspace(first, last, origins).round().astype(int)
            windows += [Window(one, int(start)) for start in starts]
    if not windows:
        most = max(len(one.y) - max(1, one.cut) for one in every)
        raise BpttError(
            f"{table.source} has {most:,} steps to validate on; expected at least "
            f"{horizon + origins - 1:,}, for {origins} origins with {horizon} steps after each: "
            "take fewer (--origins, --horizon)"
        )
    return windows


def _season(table: Table | Panel) -> int:
    """Return how many steps make a season, by the times of the table."""
    steps: tuple[Spacing | None, ...] = table.steps if isinstance(table, Panel) else (table.step,)
    return season_of(next((step for step in steps if step is not None), None))


def _forecasts(
    net: Network, windows: Sequence[Window], sampling: Sampling, shares: tuple[float, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each window the mean, and between which values most paths lie, (horizon, d)."""
    for start in range(0, len(windows), AT_ONCE):
        chosen = windows[start : start + AT_ONCE]
        histories = []
        for one, t in chosen:
            rows = slice(max(0, t - WARM_UP), t)
            histories.append((one.y[rows], None if one.x is None else one.x[rows]))
        ahead = [as_tensor(one.x[t : t + sampling.steps]) for one, t in chosen if one.x is not None]
        x = torch.stack(ahead, dim=1) if ahead else None
        mean, many = sampling.run(net, x, state_after(net, histories))
        for column, (one, t) in enumerate(chosen):
            drawn = np.quantile(one.restore(many[:, :, column], t), shares, axis=1)
            yield one.restore(mean[:, column], t), *drawn


def _simple(
    every: Sequence[Series], windows: Sequence[Window], horizon: int, season: int
) -> dict[str, np.ndarray]:
    """Return what simple methods expect, (windows, horizon, d)."""
    steps = np.arange(horizon)
    guesses = {BEFORE: np.stack([np.tile(one.before[t], (horizon, 1)) for one, t in windows])}
    if season > 1 and all(t >= season for _, t in windows):
        guesses["the season before"] = np.stack(
            [one.levels[t - season + steps % season] for one, t in windows]
        )
    model = Autoregression.fit([one.y[: one.cut] for one in every if one.cut], season)
    ahead = model.forecast([one.y[:t] for one, t in windows], horizon)
    guesses["autoregression"] = np.stack(
        [one.restore(standard, t) for (one, t), standard in zip(windows, ahead, strict=True)]
    )
    return guesses


def _scales(windows: Sequence[Window], season: int) -> Float[np.ndarray, "windows d"]:
    """Return of each window's series how far off the season before is where it was trained on."""
    scales: dict[int, np.ndarray] = {}
    for one, _ in windows:
        if id(one.y) not in scales:
            part = one.levels[: one.cut] if one.cut else one.levels
            lag = season if season < len(part) else 1
            scale = np.abs(part[lag:] - part[:-lag]).mean(0)
            scales[id(one.y)] = np.where(scale > 0, scale, np.nan)
    return np.stack([scales[id(one.y)] for one, _ in windows])
