"""Draws docs/figures/paths.png: the ways from a weight to a loss, and how many there are."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import bptt

STEPS, SHOWN = 12, 3
Architecture = bptt.Architecture
COUNTED = {
    "W of RNN 1": (Architecture.rnn1(), ("h", "h")),
    "R of RNN 2, running freely": (Architecture.rnn2(), ("o", "h")),
    "W of both, teacher forced": (Architecture.both().teacher_forced(), ("h", "h")),
    "W of both, running freely": (Architecture.both(), ("h", "h")),
}
LOOKS = [("#2459d3", "solid"), ("#2a9d5c", "dash"), ("#d98a1f", "dot"), ("#d3242c", "solid")]


def draw(counts: dict[str, list[int]]) -> go.Figure:
    """Return the picture: above, the ways of W in RNN 1 to the third loss; below, the numbers."""
    titles = [f"the {SHOWN} ways from W to loss {SHOWN} in RNN 1", "ways to loss j"]
    figure = make_subplots(1, 2, subplot_titles=titles)
    rnn1 = Architecture.rnn1()
    ways = list(rnn1.paths(("h", "h"), loss_step=SHOWN))
    for trace in bptt.plots.plot_unfolded(rnn1, 4, ways=ways).data:
        figure.add_trace(trace, row=1, col=1)
    figure.update_xaxes(title="step t", showgrid=False, zeroline=False, dtick=1, row=1, col=1)
    figure.update_yaxes(visible=False, range=(-0.5, 2.5), row=1, col=1)
    for (name, values), (color, dash) in zip(counts.items(), LOOKS, strict=True):
        figure.add_scatter(
            x=list(range(1, STEPS + 1)),
            y=values,
            name=name,
            line={"color": color, "dash": dash, "width": 3},
            row=1,
            col=2,
        )
    figure.update_xaxes(title="j", row=1, col=2)
    figure.update_yaxes(type="log", dtick=1, row=1, col=2)
    figure.update_layout(
        template="plotly_white",
        width=1080,
        height=400,
        margin={"t": 40, "r": 20, "l": 20},
        legend={"x": 0.57, "y": 0.98},
    )
    return figure


if __name__ == "__main__":
    counts = {
        name: [one.count_paths(edge, loss_step=j) for j in range(1, STEPS + 1)]
        for name, (one, edge) in COUNTED.items()
    }
    for name, values in counts.items():
        print(f"{name}: {values}")
    draw(counts).write_image(Path(__file__).with_suffix(".png"), scale=2)
