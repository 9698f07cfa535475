"""A series, a loss or an error over time, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Int
from plotly.subplots import make_subplots

import bptt
from bptt.errors import BpttError, counted, shown
from bptt.report.style import BLUE, GREEN, GREY, RED, draws, styled
from bptt.training import files
from bptt.training.exposure import Exposure
from bptt.training.series import SeriesForecast
from bptt.training.tables import Table
from bptt.training.task_kinds import Criterion

MOST_NUMBERS = 20
"""Classes up to which a confusion has its counts written into it."""
STEPS_SHOWN = 3
"""Of the past as many steps are shown as this times those ahead, and at least a hundred."""
TRUE, FORECAST, SPREAD = GREY, BLUE, "rgba(61, 116, 230, 0.2)"


@draws(Table, SeriesForecast)
def plot_forecast(table: Table, ahead: SeriesForecast) -> go.Figure:
    """Return the end of a table, and how it goes on: a panel for each column of the target."""
    names, shown = ahead.names, max(100, STEPS_SHOWN * len(ahead.mean))
    figure = make_subplots(
        len(names), 1, shared_xaxes=True, subplot_titles=list(map(escape, names))
    )
    count = len(ahead.mean)
    past: Any = np.arange(-min(shown, len(table.levels)) + 1, 1)
    past = past if table.times is None else table.clock.wall(table.times[-shown:])
    times = np.concatenate([past[-1:], table.clock.wall(ahead.times)])
    now = table.levels[-1:]  # where the forecast begins: a line, even if it has one step
    low, high = (np.concatenate([now, ahead.quantiles[q]]) for q in sorted(ahead.quantiles))
    mean = np.concatenate([now, ahead.mean])
    for i in range(len(names)):
        around = np.concatenate([low[:, i], high[::-1, i]])
        there_and_back = np.concatenate([times, times[::-1]])
        traces = (
            {"x": past, "y": table.levels[-shown:, i], "name": "the table", "line_color": TRUE},
            {
                "x": there_and_back,
                "y": around,
                "name": "90% of the sampled paths",
                "fill": "toself",
                "fillcolor": SPREAD,
                "line_width": 0,
                "hoverinfo": "skip",
            },
            {"x": times, "y": mean[:, i], "name": "forecast", "line_color": FORECAST},
        )
        for trace in traces:
            figure.add_scatter(**trace, mode="lines", showlegend=i == 0, row=i + 1, col=1)
    title = f"{escape(table.path.name)}, {counted(count, 'step')} ahead"
    return styled(figure, height=180 + 260 * len(names), title=title)


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
