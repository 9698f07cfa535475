"""Forecasts from many origins: their errors by hand, and the simple methods beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import bptt
from bptt.data.tables.calendar_steps import season_of
from bptt.errors import BpttError
from bptt.forecasting.autoregression import Autoregression
from bptt.report.backtests import write_backtest

N, H = 120, 4


def table(**columns: object) -> bptt.Table | bptt.Panel:
    random = np.random.default_rng(0)
    t = np.arange(N)
    data = pl.DataFrame(
        {
            "day": np.datetime64("2026-01-01") + t,
            "a": 50 + 9 * np.sin(2 * np.pi * t / 7) + random.normal(size=N),
            "b": np.cumsum(random.normal(size=N)),
            "u": random.normal(size=N),
        }
    )
    named = {"target": ["a", "b"], "inputs": "u", "time": "day", "validation_share": 0.3}
    return bptt.read_table(data, **(named | columns))


def trained(data: bptt.Table | bptt.Panel) -> bptt.Network:
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=6)
    bptt.fit(net, data, bptt.Settings(max_updates=20, window=20))
    return net


@pytest.mark.parametrize("difference", [False, True])
def test_errors_are_those_of_forecasts_of_the_table_up_to_each_origin(difference: bool) -> None:
    data = table(difference=difference)
    net = trained(data)
    result = bptt.backtest(net, data, H, origins=3, paths=40, seed=0)
    starts = np.linspace(data.cut, len(data.y) - H, 3).round().astype(int)
    means, befores, seasons, trues = [], [], [], []
    for start in starts:
        known = slice(None, int(start))
        short = replace(data, **{k: getattr(data, k)[known] for k in ("y", "x", "levels", "times")})
        rows = slice(int(start), int(start) + H)
        future = pl.DataFrame(
            {"day": data.times[rows], "u": data.x_scaling.original(data.x[rows])[:, 0]}
        )
        means.append(bptt.forecast(net, short, H, future=future, paths=2, seed=0).mean)
        trues.append(data.levels[rows])
        befores.append(np.tile(data.levels[start - 1], (H, 1)))
        seasons.append(data.levels[start - 7 : start - 7 + H])
    assert result.season == 7
    for name, guesses in (
        ("network", means),
        ("the value before", befores),
        ("the season before", seasons),
    ):
        off = np.array(guesses) - np.array(trues)
        np.testing.assert_allclose(result.errors[name].mae, np.abs(off).mean(0), rtol=1e-4)
        np.testing.assert_allclose(result.errors[name].rmse, np.sqrt((off**2).mean(0)), rtol=1e-4)
        scale = np.abs(data.levels[7 : data.cut] - data.levels[: data.cut - 7]).mean(0)
        np.testing.assert_allclose(
            result.errors[name].mase, np.abs(off).mean((0, 1)) / scale, rtol=1e-4
        )


def test_coverage_is_how_often_the_truth_lies_within(tmp_path: Path) -> None:
    data = table()
    result = bptt.backtest(trained(data), data, H, origins=5, quantiles=(0.3, 0.7), seed=1)
    within = [(one.low <= one.true) & (one.true <= one.high) for one in result.examples]
    assert len(result.examples) == result.windows == 5
    np.testing.assert_array_equal(result.coverage, np.mean(within, axis=0))
    assert result.nominal == pytest.approx(0.4)
    assert 0 < result.coverage.mean() < 1
    again = bptt.backtest(trained(data), data, H, origins=5, quantiles=(0.3, 0.7), seed=1)
    np.testing.assert_array_equal(result.coverage, again.coverage)
    write_backtest(tmp_path / "page.html", result, "a <run>")
    page = (tmp_path / "page.html").read_text()
    assert "within 40%" in page
    assert "a &lt;run&gt;" in page


def test_series_that_are_too_short_are_left_out_and_counted() -> None:
    days = [np.datetime64("2026-01-01") + np.arange(n) for n in (90, 30, 90)]
    data = pl.DataFrame(
        {
            "day": np.concatenate(days),
            "id": [name for name, d in zip("xyz", days, strict=True) for _ in d],
            "a": np.random.default_rng(0).normal(size=210),
        }
    )
    panel = bptt.read_table(data, target="a", time="day", series="id")
    net = trained(panel)
    result = bptt.backtest(net, panel, 4, origins=5, paths=9, seed=0)
    assert (result.windows, result.skipped) == (10, 1)
    names = {one.name for one in result.examples}
    assert names == {"x", "z"}
    with pytest.raises(
        BpttError, match=r"has 9 steps to validate on; expected at least 23, for 20"
    ):
        bptt.backtest(net, panel, 4)


def test_an_autoregression_finds_what_made_a_series() -> None:
    random = np.random.default_rng(0)
    y = np.zeros((4000, 2))
    for t in range(2, len(y)):
        y[t, 0] = 0.5 + 0.6 * y[t - 1, 0] - 0.3 * y[t - 2, 0] + 0.1 * random.normal()
        y[t, 1] = random.normal()
    model = Autoregression.fit([y[:1500], y[1500:]], season=7)
    np.testing.assert_allclose(model.weights[0, :2], [0.6, -0.3], atol=0.05)
    np.testing.assert_allclose(model.constants, [0.5, 0], atol=0.06)
    assert np.abs(model.weights[0, 2:]).max() < 0.06
    assert np.abs(model.weights[1]).max() < 0.06
    known, (ahead,) = y[:100], model.forecast([y[:100]], 5)
    for step in range(5):
        lags = np.concatenate([known, ahead[:step]])[::-1][: model.weights.shape[1]]
        expected = model.constants + (model.weights.T * lags).sum(0)
        np.testing.assert_allclose(ahead[step], expected)


def test_a_series_is_that_of_the_table() -> None:
    data = table(difference=True)
    (one,) = data.series
    for origin in (1, data.cut):
        rows = slice(origin, origin + H)
        np.testing.assert_allclose(one.restore(one.y[rows], origin), data.levels[rows], rtol=1e-5)


@pytest.mark.parametrize(
    ("times", "season"),
    [
        (pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 2, 1), "1h", eager=True), 24),
        (
            pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 9), "15m", eager=True),
            96,
        ),
        (pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 3, 1), "1d", eager=True), 7),
        (pl.date_range(pl.date(2021, 1, 1), pl.date(2026, 3, 1), "1mo", eager=True), 12),
        (pl.date_range(pl.date(2012, 1, 1), pl.date(2026, 3, 1), "1q", eager=True), 4),
        (pl.date_range(pl.date(1950, 1, 1), pl.date(2026, 3, 1), "1y", eager=True), 1),
        (pl.Series(np.arange(50.0)), 1),
    ],
)
def test_a_season_is_what_the_times_say(times: pl.Series, season: int) -> None:
    data = bptt.read_table(pl.DataFrame({"t": times, "a": np.sin(np.arange(len(times)))}), time="t")
    assert season_of(data.step) == season


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is 0; expected a whole number"),
        ({"horizon": 30}, r"has 36 steps to validate on; expected at least 49, for 20 origins"),
        ({"horizon": 2, "quantiles": (0.5,)}, "expected two, of which the first is the smaller"),
        ({"horizon": 2, "season": 0}, "season is 0; expected"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, object], message: str) -> None:
    data = table()
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=2)
    with pytest.raises(BpttError, match=message):
        bptt.backtest(net, data, **options)
