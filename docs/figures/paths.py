"""Draws docs/figures/paths.png: the ways from W to the third loss, and how many there are.

Above: the ways of RNN 1, one by one; below: a way of "both" that runs through the output, and the
number of ways to the loss at step j.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import bptt
from bptt.model.architecture import Place

STEPS = 3
COUNTED = list(range(1, 13))


def add_way(
    figure: go.Figure,
    architecture: bptt.Architecture,
    way: tuple[Place, ...],
    *,
    row: int,
    col: int,
) -> None:
    """Draw the unfolded graph, with a way in it."""
    unfolded = bptt.plots.plot_unfolded(architecture, STEPS, ways=[way])
    for trace in unfolded.data:
        figure.add_trace(trace.update(showlegend=False), row=row, col=col)
    axis = 3 * (row - 1) + col
    anchor = "x" if axis == 1 else f"x{axis}"
    ranges = unfolded.layout.xaxis.range, unfolded.layout.yaxis.range
    figure.update_xaxes(visible=False, range=ranges[0], row=row, col=col)
    figure.update_yaxes(visible=False, range=ranges[1], scaleanchor=anchor, row=row, col=col)


def add_counts(figure: go.Figure) -> None:
    """Print and draw how many ways there are to the loss at each step."""
    rnn1, rnn2 = bptt.Architecture.rnn1(), bptt.Architecture.rnn2()
    both = bptt.Architecture.both()
    for name, architecture, edge, color, dash in (
        ("W in RNN 1", rnn1, ("h", "h"), "#d3242c", "solid"),
        ("R in RNN 2", rnn2, ("o", "h"), "#2a9d5c", "dash"),
        ("W in both, forced", both.teacher_forced(), ("h", "h"), "#8a4fbf", "dot"),
        ("W in both, free", both, ("h", "h"), "#2459d3", "solid"),
    ):
        counts = [architecture.count_paths(edge, j) for j in COUNTED]
        print(f"{name}: {counts}")
        figure.add_scatter(
            x=COUNTED,
            y=counts,
            name=name,
            line={"color": color, "dash": dash, "width": 2.5},
            row=2,
            col=2,
        )
    figure.update_xaxes(title="step j of the loss", row=2, col=2)
    figure.update_yaxes(type="log", dtick=1, row=2, col=2)


def main() -> None:
    """Draw the ways, and print and draw their numbers."""
    rnn1, both = bptt.Architecture.rnn1(), bptt.Architecture.both()
    titles = [f"RNN 1: W used at step {k}" for k in (1, 2, 3)]
    figure = make_subplots(
        2,
        3,
        specs=[[{}] * 3, [{}, {"colspan": 2}, None]],
        subplot_titles=[*titles, "both: one of the ways", "ways from a weight to the loss at j"],
        row_heights=[0.45, 0.55],
        vertical_spacing=0.1,
        horizontal_spacing=0.06,
    )
    for col, way in enumerate(rnn1.paths(("h", "h"), loss_step=STEPS), 1):
        add_way(figure, rnn1, way, row=1, col=col)
    through = [way for way in both.paths(("h", "h"), loss_step=STEPS) if ("o", 1) in way]
    add_way(figure, both, through[-1], row=2, col=1)
    add_counts(figure)
    figure.update_layout(
        template="plotly_white",
        width=1000,
        height=600,
        margin={"t": 40, "r": 20, "l": 20, "b": 60},
        legend={"x": 0.43, "y": 0.48, "yanchor": "top"},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
