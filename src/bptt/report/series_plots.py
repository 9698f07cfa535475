"""A series, a loss or an error over time, as figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Int
from plotly.subplots import make_subplots

import bptt
from bptt.data.criterion import Criterion
from bptt.data.tables.clock import Clock
from bptt.data.tables.panels import Panel
from bptt.data.tables.table import Table
from bptt.errors import BpttError, counted, shown
from bptt.forecasting.forecast import PanelForecast, SeriesForecast
from bptt.report.style import BLUE, GREEN, GREY, RED, draws, styled
from bptt.training.exposure import Exposure
from bptt.training.runs import files

MOST_NUMBERS = 20
"""Classes up to which a confusion has its counts written into it."""
MOST_PARTS = 12
"""Of a figure that shows several series."""
STEPS_SHOWN = 3
"""Of the past as many steps are shown as this times those ahead, and at least a hundred."""
TRUE, FORECAST, SPREAD = GREY, BLUE, "rgba(61, 116, 230, 0.2)"


@draws(Table | Panel, SeriesForecast | PanelForecast)
def plot_forecast(table: Table | Panel, ahead: SeriesForecast | PanelForecast) -> go.Figure:
    """Return the end of a table, and how it goes on: a part for each column of the target.

    Of a panel the first series are shown.
    """
    ends = _ends(table, ahead)
    parts = [(name, k, end) for name, end in ends for k in range(end.levels.shape[1])]
    parts = parts[: max(MOST_PARTS, len(table.columns.target))]
    titles = [
        escape(f"{name}, {column}" if name else column)
        for name, k, _ in parts
        for column in table.columns.target[k : k + 1]
    ]
    figure = make_subplots(
        len(parts),
        1,
        shared_xaxes=len(table.series) == 1,
        subplot_titles=titles,
        vertical_spacing=0.3 / len(parts),
    )
    for row, (_, k, end) in enumerate(parts, 1):
        for trace in end.traces(k, table.clock):
            figure.add_scatter(**trace, mode="lines", showlegend=row == 1, row=row, col=1)
    what = table.source if table.path is None else table.path.name
    count = counted(len(ends[0][1].ahead.mean), "step")
    title = f"{escape(what)}, {count} ahead"
    if len(table.series) * len(table.columns.target) > len(parts):
        shown = len({name for name, _, _ in parts})
        title += f": the first {shown} of {counted(len(table.series), 'series')}"
    return styled(figure, height=180 + 260 * len(parts), title=title)


class _End(NamedTuple):
    """The last levels of a series, their times, and how it goes on."""

    levels: np.ndarray
    times: np.ndarray | None
    ahead: SeriesForecast

    def traces(self, k: int, clock: Clock) -> Iterator[dict[str, Any]]:
        """Yield what is drawn of one column: the past, where most paths lie, and the mean."""
        ahead, count = self.ahead, max(100, STEPS_SHOWN * len(self.ahead.mean))
        levels = self.levels[-count:, k]
        past: Any = np.arange(1 - len(levels), 1)
        past = past if self.times is None else clock.wall(self.times[-count:])
        times = np.concatenate([past[-1:], clock.wall(ahead.times)])
        now = levels[-1:]  # where the forecast begins: a line, even if it has one step
        yield {"x": past, "y": levels, "name": "the table", "line_color": TRUE}
        low, high = min(ahead.quantiles, default=1.0), max(ahead.quantiles, default=0.0)
        if low < high:
            bounds = ahead.quantiles[low][:, k], ahead.quantiles[high][::-1, k]
            yield {
                "x": np.concatenate([times, times[::-1]]),
                "y": np.concatenate([now, *bounds, now]),
                "name": f"{100 * (high - low):g}% of the sampled paths",
                "fill": "toself",
                "fillcolor": SPREAD,
                "line_width": 0,
                "hoverinfo": "skip",
            }
        mean = np.concatenate([now, ahead.mean[:, k]])
        yield {"x": times, "y": mean, "name": "forecast", "line_color": FORECAST}


def _ends(table: Table | Panel, ahead: SeriesForecast | PanelForecast) -> list[tuple[str, _End]]:
    """Return each series' end, with what it is called if there are several."""
    if (table.columns.series is None) != isinstance(ahead, SeriesForecast):
        raise BpttError(
            f"the forecast is a {type(ahead).__name__} and the table a {type(table).__name__}; "
            "expected the forecast of that table"
        )
    each = {"": ahead} if isinstance(ahead, SeriesForecast) else ahead
    return [
        (series.name, _End(series.levels, series.times, each[series.name]))
        for series in table.series[:MOST_PARTS]
    ]


@draws(Sequence)
def plot_learning(metrics: Sequence[dict[str, float]]) -> go.Figure:
    """Return the losses of a run against its steps; metrics: the lines of metrics.jsonl."""
    figure = go.Figure()
    for key, name, color in (
        ("train_nll", "training", GREY),
        ("validation_nll", "validation", BLUE),
    ):
        rows = [row for row in metrics if key in row]
        figure.add_scatter(
            x=[row["update"] for row in rows],
            y=[row[key] for row in rows],
            name=name,
            line_color=color,
        )
    figure.update_xaxes(title="update")
    figure.update_yaxes(title="loss, nats per step")
    return styled(figure)


@draws(Sequence, Criterion)
def plot_criterion(metrics: Sequence[dict[str, float]], criterion: Criterion) -> go.Figure:
    """Return what a task's criterion measured, beside what does without memory, and what solves."""
    rows = [row for row in metrics if "score" in row]
    figure = go.Figure()
    figure.add_scatter(
        x=[row["update"] for row in rows],
        y=[row["score"] for row in rows],
        name="held out",
        line_color=BLUE,
    )
    draw_criterion(figure, criterion)
    return styled(figure)


def draw_criterion(figure: go.Figure, criterion: Criterion) -> None:
    """Draw where a task counts as solved, and what a network without memory reaches, as lines."""
    for level, label, color in (
        (criterion.baseline, "without memory", RED),
        (criterion.solved, "solved", GREEN),
    ):
        if level == 0:  # which is no line to reach
            continue
        figure.add_hline(
            level, line_dash="dash", line_color=color, annotation_text=f"{label}: {level:.3g}"
        )
    figure.update_xaxes(title="update")
    figure.update_yaxes(title=criterion.measure, rangemode="tozero")


@draws(np.ndarray, Sequence)
def plot_confusion(
    confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]
) -> go.Figure:
    """Return how often sequences of each class (a row) were told to be of each (a column)."""
    K = len(classes)
    if confusion.shape != (K, K) or confusion.dtype.kind not in "iu":
        raise BpttError(
            f"the confusion is {shown(confusion)} and there are {counted(K, 'class')}; expected "
            "whole numbers, (classes, classes)"
        )
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    names = [escape(str(name)) for name in classes]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=names,
            y=names,
            text=np.where(confusion > 0, confusion.astype(str), ""),
            customdata=confusion,
            texttemplate="%{text}" if K <= MOST_NUMBERS else None,
            colorscale=[[0, "rgba(36, 89, 211, 0)"], [1, BLUE]],
            zmin=0,
            zmax=1,
            colorbar={"title": "share", "tickformat": ".0%"},
            hovertemplate="%{y} taken for %{x}: %{customdata}, %{z:.0%}<extra></extra>",
        )
    )
    figure.update_xaxes(title="predicted class", type="category")
    figure.update_yaxes(title="true class", type="category", autorange="reversed")
    return styled(figure, height=180 + max(240, 28 * K), hover="closest")


@draws(Exposure)
def plot_exposure(exposure: Exposure) -> go.Figure:
    """Return the loss by the number of steps since the last true value, beside the forced one."""
    figure, step = go.Figure(), np.arange(len(exposure.excess))
    for values, name, color in (
        (exposure.free, "the last k fed back are its own", RED),
        (exposure.forced, "all fed back are true", BLUE),
    ):
        figure.add_scatter(x=step, y=values, name=name, line_color=color)
    figure.update_xaxes(title="k, steps since the last true value")
    figure.update_yaxes(title="loss, nats per step")
    return styled(figure)


@draws(go.Figure)
def write_figure(figure: go.Figure, path: Path) -> None:
    """Write a figure as one HTML file that needs nothing else."""
    page = figure.to_html(include_plotlyjs=True)
    mark = f'<head><meta name="generator" content="bptt {bptt.__version__}">'
    files.write(Path(path), page.replace("<head>", mark, 1), files.PAGE)
