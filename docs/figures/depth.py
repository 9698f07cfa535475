"""Draws docs/figures/depth.png: four architectures and their depths."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import bptt

Architecture = bptt.Architecture
SKIPS = Architecture([("x", "h", 0), ("h", "h", 1), ("h", "h", 3), ("h", "o", 0)])
DEEP = Architecture([("x", "a", 0), ("a", "b", 0), ("b", "c", 0), ("c", "a", 1), ("c", "o", 0)])
SHOWN = {
    "RNN 1": Architecture.rnn1(),
    "RNN 2": Architecture.rnn2(),
    "two layers": Architecture.stacked(2),
    "a deep step": DEEP,
    "skips of three steps": SKIPS,
}


def depths(one: bptt.Architecture) -> str:
    """Return the depths as text."""
    return (
        f"recurrent depth {one.recurrent_depth}<br>feedforward depth {one.feedforward_depth}<br>"
        f"skip coefficient {one.recurrent_skip_coefficient}"
    )


def draw() -> go.Figure:
    """Return the picture: the figures of bptt.plots, side by side."""
    titles = [f"<b>{name}</b><br>{depths(one)}" for name, one in SHOWN.items()]
    figure = make_subplots(1, len(SHOWN), subplot_titles=titles)
    for column, one in enumerate(SHOWN.values(), start=1):
        alone = bptt.plots.plot_architecture(one)
        for trace in alone.data:
            figure.add_trace(trace, row=1, col=column)
        axis = "" if column == 1 else str(column)
        for note in alone.layout.annotations:
            note.update(xref=f"x{axis}", yref=f"y{axis}")
            figure.add_annotation(note)
        figure.update_xaxes(range=(-1.1, 0.9), visible=False, row=1, col=column)
        figure.update_yaxes(range=(-0.4, 4.4), visible=False, row=1, col=column)
    figure.update_layout(
        template="plotly_white", width=1180, height=470, margin={"t": 90, "r": 10, "l": 10}
    )
    return figure


if __name__ == "__main__":
    for name, one in SHOWN.items():
        print(f"{name}: {depths(one)}".replace("<br>", ", "))
    draw().write_image(Path(__file__).with_suffix(".png"), scale=2)
