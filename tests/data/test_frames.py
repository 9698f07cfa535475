"""Tables in memory are read as the same tables in files are, and forecasts come back as frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import bptt
from bptt.errors import BpttError
from bptt.training.runs.run import Run

N = 60
DAYS = np.datetime64("2026-01-01") + np.arange(N)
LOAD = 5 + np.sin(np.arange(N)) + np.arange(N) % 7


def trained(table: bptt.Table, out: Path | None = None) -> bptt.Network:
    torch.manual_seed(0)
    net = bptt.Network(table.likelihood, inputs=table.inputs, hidden=4)
    bptt.fit(net, table, bptt.Settings(max_updates=2, window=10), out=out)
    return net


def test_frames_of_polars_and_pandas_are_the_table_in_the_file(tmp_path: Path) -> None:
    polars = pl.DataFrame({"day": DAYS, "load": LOAD, "kind": ["a", "b"] * (N // 2)})
    polars.write_csv(tmp_path / "t.csv")
    pandas = pd.DataFrame({"day": DAYS, "load": LOAD, "kind": ["a", "b"] * (N // 2)})
    named = {"target": "load", "time": "day", "categories": "kind"}
    of_file = bptt.read_table(tmp_path / "t.csv", **named)
    for data in (polars, polars.lazy(), pandas, pandas.set_index("day")):
        table = bptt.read_table(data, **named)
        assert table.path is None
        np.testing.assert_array_equal(table.y, of_file.y)
        np.testing.assert_array_equal(table.x, of_file.x)
        np.testing.assert_array_equal(table.times.astype("M8[D]"), DAYS)
        assert table.columns.target == ("load",)
        assert str(table.step) == str(of_file.step) == "every day"
    other = polars.with_columns(load=pl.col("load") + 1)
    assert bptt.read_table(other, **named).sha256 != bptt.read_table(polars, **named).sha256


def test_what_pandas_has_beside_numbers_is_understood() -> None:
    zoned = pd.Series(DAYS).dt.tz_localize("Europe/Berlin")
    holes = pd.Series([1.0, None, *range(2, N)])
    data = pd.DataFrame(
        {
            "when": zoned,
            "level": holes,
            "count": pd.array([None, *range(1, N)], dtype="Int64"),
            "kind": pd.Categorical(["x", "y"] * (N // 2)),
            7: [True, False] * (N // 2),
        }
    )
    named = {"time": "when", "fill": "linear", "categories": "kind", "target": ["level", "count"]}
    table = bptt.read_table(data, **named, inputs="7")
    assert table.clock.zone == "Europe/Berlin"
    np.testing.assert_allclose(table.levels[:3, 0], [1, 1.5, 2])
    np.testing.assert_allclose(table.levels[:3, 1], [1, 1, 2])
    assert table.classes == (("x", "y"),)
    assert table.x[:2, 1:].tolist() == [[1, 0], [0, 1]]


def test_a_forecast_comes_back_as_a_frame_with_the_times_of_the_table(tmp_path: Path) -> None:
    for zone in (None, "Europe/Berlin"):
        times = pd.Series(DAYS).dt.tz_localize(zone)
        table = bptt.read_table(pd.DataFrame({"t": times, "load": LOAD}), time="t")
        net = trained(table, tmp_path / str(zone))
        ahead = bptt.forecast(net, table, 3, quantiles=[0.25, 0.5], paths=20, seed=0)
        frame, polars = ahead.to_pandas(), ahead.to_polars()
        expected = pd.Series(pd.date_range("2026-03-02", periods=3, tz=zone))
        assert (frame["time"] == expected).all()
        assert polars["time"].dtype.time_zone == zone
        columns = ["time", "load mean", "load 25%", "load 50%"]
        assert list(frame.columns) == polars.columns == columns
        np.testing.assert_allclose(frame["load mean"], ahead.mean[:, 0])
        np.testing.assert_allclose(polars["load 25%"], ahead.quantiles[0.25][:, 0])
        of_run = bptt.forecast(
            Run.open(tmp_path / str(zone)), pd.DataFrame({"t": times, "load": LOAD}), 3
        )
        np.testing.assert_allclose(of_run.mean, ahead.mean)
        with pytest.raises(BpttError, match="came from memory; expected it, or another like it"):
            bptt.forecast(tmp_path / str(zone), steps=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bptt.read_table([[1, 2]]), "the table is a list; expected a file"),
        (lambda: bptt.read_table({"a": [1]}), "the table is a dict; expected a file"),
        (
            lambda: bptt.read_table(pd.DataFrame([[1, 2]] * 9, columns=["a", "a"])),
            "has several columns named 'a'",
        ),
        (lambda: bptt.read_table(pl.DataFrame({"a": []})), "the table has no rows"),
        (
            lambda: bptt.read_table(pl.DataFrame({"a": LOAD}), taget="a"),
            "has no argument 'taget'; expected some of",
        ),
        (
            lambda: bptt.read_table(pl.DataFrame({"a": LOAD}), bptt.Columns(), target="a"),
            "got columns, and target beside them",
        ),
        (
            lambda: bptt.read_table(pl.DataFrame({"a": LOAD}), dialect=bptt.Dialect(decimal=",")),
            "decimal .* is for .csv and .tsv files; a frame is none",
        ),
        (
            lambda: bptt.forecast(bptt.Network(bptt.Gaussian(1), hidden=2), LOAD),
            "table is a ndarray|expected what bptt.read_table returns",
        ),
    ],
)
def test_what_is_no_table_is_one_line(call: object, message: str) -> None:
    with pytest.raises(BpttError, match=message):
        call()


@pytest.mark.parametrize("quantiles", [[0.0], [1.5], ["a"], 0.5])
def test_quantiles_are_shares(quantiles: object) -> None:
    table = bptt.read_table(pl.DataFrame({"a": LOAD}))
    with pytest.raises(BpttError, match=r"quantile.* expected (a )?numbers? between 0 and 1"):
        bptt.forecast(bptt.Network(table.likelihood, hidden=2), table, quantiles=quantiles)
