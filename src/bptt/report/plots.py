"""Results as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bptt.errors import BpttError
from bptt.training.series import SeriesForecast
from bptt.training.tables import Table

STEPS_SHOWN = 3
"""Of the past as many steps are shown as this times those ahead, and at least a hundred."""
TRUE, OWN, SPREAD = "#4a4f59", "#2459d3", "rgba(36, 89, 211, 0.18)"


def plot_forecast(table: Table, ahead: SeriesForecast) -> go.Figure:
    """Return the end of a table, and how it goes on: a panel for each column of the target."""
    names, shown = ahead.names, max(100, STEPS_SHOWN * len(ahead.mean))
    figure = make_subplots(len(names), 1, shared_xaxes=True, subplot_titles=names)
    count = len(ahead.mean)
    past: Any = np.arange(-min(shown, len(table.levels)) + 1, 1)
    past = past if table.times is None else table.times[-shown:]
    low, high = (ahead.quantiles[share] for share in sorted(ahead.quantiles))
    for i in range(len(names)):
        around = np.concatenate([low[:, i], high[::-1, i]])
        there_and_back = np.concatenate([ahead.times, ahead.times[::-1]])
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
            {"x": ahead.times, "y": ahead.mean[:, i], "name": "forecast", "line_color": OWN},
        )
        for trace in traces:
            figure.add_scatter(**trace, mode="lines", showlegend=i == 0, row=i + 1, col=1)
    figure.update_layout(
        template="plotly_white",
        title=f"{table.path.name}, {count:,} steps ahead",
        height=180 + 260 * len(names),
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


def write_figure(figure: go.Figure, path: Path) -> None:
    """Write a figure as one HTML file that needs nothing else."""
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise BpttError(f"cannot write {path}: {error.strerror}") from None
