"""Two real series, one step ahead, next to persistence and to statsmodels' autoregression.

    python benchmarks/series.py [--picture docs/figures/free_run.png]

Yearly sunspots (1700 to 1920 to train on, 1921 to 1955 to test), and weekly CO2 with its missing
weeks (the first 80% and the rest), as statsmodels ships them. The network's size and training steps
are chosen on the last fifth of the training part; then it is trained on all of it, from five seeds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
import torch
from statsmodels.tsa.ar_model import AutoReg, ar_select_order

import bptt
from bptt.forecasting.forecast import SeriesForecast, forecast
from bptt.forecasting.one_step_ahead import one_step_ahead

SEEDS = range(5)
HIDDEN, STEPS, LEARNING_RATE = (8, 16), (150, 300, 600), 0.01


class Task(NamedTuple):
    """A series, how to read it, and how statsmodels chooses its autoregression."""

    name: str
    file: Path
    columns: bptt.Columns
    most_lags: int
    criterion: str


def tasks(folder: Path) -> list[Task]:
    """Write the series as tables; return what to do with them."""
    spots = sm.datasets.sunspots.load_pandas().data
    spots = spots[spots.YEAR <= 1955].rename(columns={"YEAR": "year", "SUNACTIVITY": "sunspots"})
    spots.to_csv(folder / "sunspots.csv", index=False)
    sm.datasets.co2.load_pandas().data.to_csv(folder / "co2.csv", index_label="week")
    yearly = bptt.Columns(target=("sunspots",), time="year", validation_share=35.5 / len(spots))
    weekly = bptt.Columns(
        target=("co2",), time="week", fill="linear", difference=True, validation_share=0.2
    )
    return [
        Task("sunspots", folder / "sunspots.csv", yearly, 20, "aic"),
        Task("co2", folder / "co2.csv", weekly, 60, "bic"),
    ]


def trained(table: bptt.Table, hidden: int, steps: int, seed: int) -> bptt.Network:
    """Return a network trained on the first part of a table."""
    torch.manual_seed(seed)
    net = bptt.Network(table.likelihood, hidden=hidden)
    settings = bptt.Settings(
        batch=1,
        window=None,
        max_updates=steps,
        learning_rate=LEARNING_RATE,
        validate_every=steps,
    )
    bptt.fit(net, table, settings)
    return net


def errors(table: bptt.Table, hidden: int, steps: int) -> list[float]:
    """Return the error one step ahead on the last part, from each seed."""
    nets = (trained(table, hidden, steps, seed) for seed in SEEDS)
    return [float(one_step_ahead(net, table).network[0]) for net in nets]


def chosen(task: Task, table: bptt.Table, folder: Path) -> tuple[int, int]:
    """Return the hidden units and steps that are best on the last fifth of the training part."""
    rows = task.file.read_text().splitlines(keepends=True)
    first = folder / f"{task.name}-training.csv"
    first.write_text("".join(rows[: 1 + table.cut + task.columns.difference]))
    inner = bptt.read_table(first, replace(task.columns, validation_share=0.2))
    assert isinstance(inner, bptt.Table)
    found = {
        (hidden, steps): statistics.median(errors(inner, hidden, steps))
        for hidden, steps in itertools.product(HIDDEN, STEPS)
    }
    return min(found, key=lambda pair: found[pair])


def autoregression(task: Task, table: bptt.Table) -> tuple[int, float]:
    """Return how many lags statsmodels chooses on the training part, and its error on the rest."""
    levels = np.concatenate([[table.first_level], table.levels])[:, 0]
    series = np.diff(levels) if task.columns.difference else levels[1:]
    n = table.cut
    lags = ar_select_order(series[:n], task.most_lags, ic=task.criterion).ar_lags
    constant, *weights = AutoReg(series[:n], lags).fit().params
    steps = range(n, len(series))
    expected = [constant + sum(w * series[t - k] for w, k in zip(weights, lags)) for t in steps]  # noqa: B905
    return len(lags), float(np.sqrt(np.mean((np.array(expected) - series[n:]) ** 2)))


def run(task: Task, folder: Path) -> tuple[bptt.Table, bptt.Network]:
    """Print what each side's error is; return the table and the network of median error."""
    table = bptt.read_table(task.file, task.columns)
    assert isinstance(table, bptt.Table)
    hidden, steps = chosen(task, table, folder)
    nets = [trained(table, hidden, steps, seed) for seed in SEEDS]
    found = [one_step_ahead(net, table) for net in nets]
    mine = sorted(float(one.network[0]) for one in found)
    lags, its = autoregression(task, table)
    median = statistics.median(mine)
    print(f"\n{task.name}: {table.cut:,} steps to train on, {len(table.y) - table.cut} to test")
    print(f"  persistence          {found[0].persistence[0]:8.4f}")
    print(f"  AR({lags}), by {task.criterion.upper()}      {its:8.4f}")
    print(f"  {hidden} tanh units       {median:8.4f}  {mine[0]:.4f} to {mine[-1]:.4f}")
    print(f"  ratio to AR          {median / its:8.3f}  (asked: at most 1.10; {steps} steps)")
    which = [float(one.network[0]) for one in found].index(median)
    return table, nets[which]


def draw(parts: list[tuple[bptt.Table, bptt.Network]], picture: Path, folder: Path) -> None:
    """Draw the test part: one step ahead, and a free run from where training ended."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = ("sunspots a year", "CO₂ at Mauna Loa, ppm")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.07)
    for col, (table, net) in enumerate(parts, 1):
        start, times, true = table.cut, table.times, table.levels[:, 0]
        assert times is not None
        ahead = from_the_cut(table, net)
        forced = one_by_one(table, net)
        shown = slice(max(0, start - 60), None)
        show: dict[str, Any] = {"row": 1, "col": col, "showlegend": col == 1, "mode": "lines"}
        low, high = (ahead.quantiles[share][:, 0] for share in sorted(ahead.quantiles))
        test = times[start:]
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([test, test[::-1]]),
                y=np.concatenate([low, high[::-1]]),
                fill="toself",
                fillcolor="rgba(211, 36, 44, 0.15)",
                line_width=0,
                name="90% of the free runs",
                showlegend=col == 1,
            ),
            1,
            col,
        )
        figure.add_scatter(x=times[shown], y=true[shown], name="true", line_color="#4a4f59", **show)
        figure.add_scatter(
            x=test, y=ahead.mean[:, 0], name="free run of means", line_color="#d3242c", **show
        )
        figure.add_scatter(x=test, y=forced, name="one step ahead", line_color="#2459d3", **show)
    figure.update_layout(
        template="plotly_white",
        width=1080,
        height=420,
        margin={"t": 40, "r": 20, "l": 50, "b": 70},
        legend={"orientation": "h", "y": -0.12},
    )
    figure.write_image(picture, scale=2)


def from_the_cut(table: bptt.Table, net: bptt.Network) -> SeriesForecast:
    """Return the forecast of the test part from the end of the training part."""
    known = slice(None, table.cut)
    short = replace(table, y=table.y[known], levels=table.levels[known], times=table.times[known])  # type: ignore[index]
    ahead = forecast(net, short, len(table.y) - table.cut, quantiles=(0.05, 0.95), seed=0)
    assert isinstance(ahead, SeriesForecast)
    return ahead


@torch.no_grad()
def one_by_one(table: bptt.Table, net: bptt.Network) -> np.ndarray:
    """Return what is expected one step ahead, over the test part."""
    o = net(torch.from_numpy(np.array(table.y)).unsqueeze(1)).outputs[table.cut :, 0].numpy()
    return table.series[0].restore_each(o, table.cut)[:, 0]


def main() -> None:
    """Run both series."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", type=Path, help="where to draw the test parts (PNG)")
    picture = parser.parse_args().picture
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [run(task, folder) for task in tasks(folder)]
        if picture is not None:
            draw(parts, picture, folder)


if __name__ == "__main__":
    main()
