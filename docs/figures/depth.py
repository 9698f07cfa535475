"""Draws docs/figures/depth.png: five architectures, and their ways from input to output.

Above: the graphs, with their measures. Below: the number of edges on the longest and on the
shortest way from x at step 1 to o at step 1 + n, counted in the unfolded graph.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import networkx as nx
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import bptt

STEPS = 24
CASES = {
    "RNN 1": bptt.Architecture.rnn1(),
    "RNN 2": bptt.Architecture.rnn2(),
    "three layers": bptt.Architecture.stacked(3),
    "deep transition": bptt.Architecture(
        [("x", "h", 0), ("h", "g", 0), ("g", "f", 0), ("f", "o", 0), ("f", "h", 1)]
    ),
    "with a skip": bptt.Architecture([("x", "h", 0), ("h", "h", 1), ("h", "h", 3), ("h", "o", 0)]),
}
LOOKS = {
    "RNN 1": ("#d3242c", "solid"),
    "RNN 2": ("#2a9d5c", "solid"),
    "three layers": ("#2459d3", "solid"),
    "deep transition": ("#8a4fbf", "solid"),
    "with a skip": ("#d98a1f", "dash"),
}


def longest_and_shortest(architecture: bptt.Architecture) -> tuple[list[int], list[int]]:
    """Return the edges on the longest and on the shortest way over 0 … STEPS steps."""
    graph = architecture.unfold(STEPS + 1)
    longest, shortest = {("x", 1): 0}, nx.single_source_shortest_path_length(graph, ("x", 1))
    for place in nx.topological_sort(graph):
        before = [longest[p] for p in graph.predecessors(place) if p in longest]
        if before:
            longest[place] = max(before) + 1
    ends = [("o", 1 + n) for n in range(STEPS + 1)]
    return [longest[end] for end in ends], [shortest[end] for end in ends]


def title(name: str, architecture: bptt.Architecture) -> str:
    """Return a name with the three measures."""
    measures = (
        ("recurrent", architecture.recurrent_depth),
        ("feedforward", architecture.feedforward_depth),
        ("skip", architecture.recurrent_skip_coefficient or Fraction(0)),
    )
    return "<br>".join([f"<b>{name}</b>", *(f"{what} {value}" for what, value in measures)])


def add_graph(figure: go.Figure, architecture: bptt.Architecture, col: int) -> None:
    """Copy the figure of a graph into the first row."""
    folded = bptt.plots.plot_architecture(architecture)
    for trace in folded.data:
        figure.add_trace(trace.update(showlegend=False), row=1, col=col)
    figure.update_xaxes(visible=False, range=[-1.1, 1.1], row=1, col=col)
    anchor = "x" if col == 1 else f"x{col}"
    figure.update_yaxes(visible=False, range=[-0.4, 4.4], scaleanchor=anchor, row=1, col=col)


def main() -> None:
    """Draw, and print what is drawn."""
    figure = make_subplots(
        2,
        5,
        specs=[[{}] * 5, [{"colspan": 3}, None, None, {"colspan": 2}, None]],
        subplot_titles=[title(name, one) for name, one in CASES.items()]
        + ["edges on the longest way over n steps", "edges on the shortest"],
        row_heights=[0.56, 0.44],
        vertical_spacing=0.1,
    )
    for col, (name, architecture) in enumerate(CASES.items(), 1):
        add_graph(figure, architecture, col)
        color, dash = LOOKS[name]
        longest, shortest = longest_and_shortest(architecture)
        print(f"{name}: longest {longest[::8]}, shortest {shortest[::8]} at n = 0, 8, 16, 24")
        for values, at in ((longest, 1), (shortest, 4)):
            figure.add_scatter(
                y=values,
                name=name,
                line={"color": color, "dash": dash},
                showlegend=at == 1,
                row=2,
                col=at,
            )
    figure.update_xaxes(title="n, steps", row=2)
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_layout(
        template="plotly_white",
        width=1000,
        height=860,
        margin={"t": 100, "r": 20, "l": 50},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.08},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
