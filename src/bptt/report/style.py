"""What all figures have in common, so that a light page and a dark one can both hold them."""

from __future__ import annotations

import plotly.graph_objects as go

BLUE, RED, GREEN, ORANGE, GREY = "#3d74e6", "#d9414b", "#2a9d5c", "#d98a1f", "#8a8f98"
GRID = "rgba(128, 128, 128, 0.25)"
HEIGHT = 360


def styled(
    figure: go.Figure, *, height: int = HEIGHT, title: str | None = None, hover: str = "x unified"
) -> go.Figure:
    """Give a figure the looks of the others: no background of its own, and quiet lines.

    hover: what is told under the pointer: all lines there, or the "closest" point.
    """
    figure.update_layout(
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        margin={"l": 60, "r": 20, "t": 50 if title else 20, "b": 50},
        legend={"orientation": "h", "y": -0.22},
        hovermode=hover,
        title=title,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY},
    )
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID, linecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID, linecolor=GRID)
    return figure
