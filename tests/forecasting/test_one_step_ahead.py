"""Networks on tables: trained, measured one step ahead, and run on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import bptt
from bptt.forecasting.forecast import forecast
from bptt.forecasting.one_step_ahead import one_step_ahead
from bptt.report.series_plots import plot_forecast
from bptt.training.runs.run import Run

N = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a table of two noisy waves, with a trend, driven by a known input."""
    random = np.random.default_rng(0)
    drive = random.normal(size=N)
    t = np.arange(N)
    rows = np.stack([np.sin(t / 3) + 0.1 * drive + t / 50, 100 + 20 * np.cos(t / 3)], 1)
    with (tmp_path / "waves.csv").open("w") as table:
        table.write("day,drive,a,b\n")
        for i in range(N):
            day = np.datetime64("2026-01-01") + i
            table.write(f"{day},{drive[i]:.5f},{rows[i, 0]:.5f},{rows[i, 1]:.5f}\n")
    return tmp_path / "waves.csv"


def columns(**more: object) -> bptt.Columns:
    return bptt.Columns(target=("a", "b"), inputs=("drive",), time="day", **more)


def trained(
    file: Path, out: Path | None = None, steps: int = 20, **more: object
) -> tuple[bptt.Network, bptt.Table]:
    torch.manual_seed(0)
    table = bptt.read_table(file, columns(**more))
    net = bptt.Network(table.likelihood, inputs=1, hidden=16)
    bptt.fit(net, table, bptt.Settings(max_updates=steps, window=30, learning_rate=0.02), out=out)
    return net, table


@pytest.mark.parametrize("difference", [False, True])
def test_one_step_ahead_is_the_error_of_the_mean_in_the_tables_units(
    file: Path, difference: bool
) -> None:
    net, table = trained(file, steps=150, difference=difference)
    found = one_step_ahead(net, table)
    y, x = (torch.from_numpy(np.array(part)).unsqueeze(1) for part in (table.y, table.x))
    o = net(y, x=x).outputs[table.cut :, 0].detach().double().numpy()
    scaling, before = table.y_scaling, table.levels[table.cut - 1 : -1]
    expected = np.array(scaling.mean) + np.array(scaling.scale) * o
    expected = expected + before if difference else expected
    errors = np.sqrt(((expected - table.levels[table.cut :]) ** 2).mean(0))
    np.testing.assert_allclose(found.network, errors, rtol=1e-4)
    steps = np.diff(table.levels[table.cut - 1 :], axis=0)
    np.testing.assert_allclose(found.persistence, np.sqrt((steps**2).mean(0)))
    assert (found.network < found.persistence).all()


@pytest.mark.parametrize("difference", [False, True])
def test_the_forecast_goes_on_from_the_last_row(
    file: Path, tmp_path: Path, difference: bool
) -> None:
    net, table = trained(file, tmp_path / "run", difference=difference)
    later = tmp_path / "later.csv"
    later.write_text(
        "day,drive\n"
        + "".join(f"{np.datetime64('2026-01-01') + N - 1 + k},{k / 9}\n" for k in range(1, 13))
    )
    ahead = forecast(net, table, 12, future=later, seed=1)
    y, x = (torch.from_numpy(np.array(part)).unsqueeze(1) for part in (table.y, table.x))
    future = np.arange(1, 13)[:, None] / 9
    future = torch.from_numpy(table.x_scaling.standard(future)).float().unsqueeze(1)
    mean = net.forecast(12, x=future, state=net(y, x=x).state, paths=1).mean[:, 0].double().numpy()
    values = np.array(table.y_scaling.mean) + np.array(table.y_scaling.scale) * mean
    values = table.levels[-1] + values.cumsum(0) if difference else values
    np.testing.assert_allclose(ahead.mean, values, rtol=1e-4, atol=1e-3)
    assert ahead.times[0] == np.datetime64("2026-01-01") + N
    assert (ahead.quantiles[0.05] < ahead.quantiles[0.95]).all()
    ahead.write(tmp_path / "f.csv")
    rows = list(csv.reader((tmp_path / "f.csv").read_text().splitlines()))
    assert rows[0] == ["time", "a mean", "a 5%", "a 95%", "b mean", "b 5%", "b 95%"]
    assert len(rows) == 13
    np.testing.assert_allclose(float(rows[5][4]), ahead.mean[4, 1], rtol=1e-5)
    figure = plot_forecast(table, ahead)
    assert len(figure.data) == 6
    assert list(figure.data[2].y) == [table.levels[-1, 0], *ahead.mean[:, 0]]
    assert figure.data[2].x[0] == figure.data[0].x[-1]
    assert len(figure.data[1].x) == len(figure.data[1].y) == 2 * len(figure.data[2].x)
    again = Run.open(tmp_path / "run")
    state = again.read_data()
    np.testing.assert_array_equal(state.y, table.y)
    assert again.network()(y, x=x).nll.equal(net(y, x=x).nll)


@pytest.mark.parametrize("time", [None, "day"])
def test_a_forecast_of_one_step_can_be_seen(file: Path, time: str | None) -> None:
    table = bptt.read_table(file, bptt.Columns(target=("a", "b"), time=time))
    ahead = forecast(bptt.Network(table.likelihood, hidden=3), table, 1, seed=0)
    for trace in plot_forecast(table, ahead).data[2::3]:
        assert trace.mode == "lines"
        assert len(trace.x) == len(trace.y) == 2


def test_a_killed_run_on_a_table_goes_on_bit_for_bit(file: Path, tmp_path: Path) -> None:
    weights = []
    for seconds in (None, 1e-9):
        torch.manual_seed(0)
        table = bptt.read_table(file, columns())
        net = bptt.Network(table.likelihood, inputs=1, hidden=8)
        settings = bptt.Settings(max_updates=12, window=30, forcing=0.5, max_seconds=seconds)
        out = tmp_path / str(seconds)
        done = bptt.fit(net, table, settings, out=out)
        if seconds:
            assert done.updates == 1
            net, done = bptt.resume(out)
        assert done.updates == 12
        weights.append([p.detach() for p in net.parameters()])
    assert all(map(torch.equal, *weights))
    file.write_text(file.read_text().replace("2026-01-01,", "2026-01-01,0"))
    with pytest.raises(bptt.BpttError, match=r"waves.csv is not the data that .* was trained on"):
        bptt.resume(out)


def test_bad_input(file: Path) -> None:
    net, table = trained(file)
    with pytest.raises(bptt.BpttError, match="the network has the inputs drive; expected a table"):
        forecast(net, table, 3)
    with pytest.raises(bptt.BpttError, match=r"row 1 of .*waves.csv is at 2026-01-01; expected"):
        forecast(net, table, 301, future=file)
