"""What all figures have in common, so that a light page and a dark one can both hold them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args

import plotly.graph_objects as go

from bptt.errors import require_kind, require_several

BLUE, RED, GREEN, ORANGE, GREY = "#3d74e6", "#d9414b", "#2a9d5c", "#d98a1f", "#8a8f98"
GRID = "rgba(128, 128, 128, 0.25)"
HEIGHT = 360
INK = "#2a3f5f"
AXIS = {"ticks": "", "title": {"standoff": 15}, "automargin": True, "zerolinewidth": 2}
TEMPLATE = {
    "layout": {
        "font": {"color": INK},
        "hoverlabel": {"align": "left"},
        "title": {"x": 0.05},
        "xaxis": AXIS,
        "yaxis": AXIS,
        "annotationdefaults": {"arrowcolor": INK, "arrowhead": 0, "arrowwidth": 1},
    },
    "data": {"heatmap": [{"type": "heatmap", "colorbar": {"outlinewidth": 0, "ticks": ""}}]},
}
"""What figures have where nothing else is said: plotly's white template, of what ours use.

The whole of it takes 30 ms to check for each figure, and 7 KB of a page.
"""


P = ParamSpec("P")
R = TypeVar("R")


def draws(*kinds: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that refuses, as the first arguments, anything but these kinds."""

    def decorate(figure: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(figure).parameters)

        @functools.wraps(figure)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value, kind in zip(names, args, kinds, strict=False):
                words = " or ".join(part.__name__ for part in get_args(kind) or (kind,))
                if kind is Sequence:
                    require_several(f"{name} of {figure.__name__}", value, "a list of results")
                require_kind(f"{name} of {figure.__name__}", value, kind, f"a {words}")
            return figure(*args, **kwargs)

        return checked

    return decorate


def styled(
    figure: go.Figure, *, height: int = HEIGHT, title: str | None = None, hover: str = "x unified"
) -> go.Figure:
    """Give a figure the looks of the others: no background of its own, and quiet lines.

    hover: what is told under the pointer: all lines there, or the "closest" point.
    """
    figure.layout.template = TEMPLATE  # as an update it would be merged with the one before
    figure.update_layout(
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
