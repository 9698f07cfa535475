"""Draws accelerated.png: how much faster a layer trains in each program of docs/hosts.md.

The numbers are those of the page's table, which `python benchmarks/hosts.py` prints.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

PAGE = Path(__file__).parents[1] / "hosts.md"
COLORS = {"RNN": "#d98a1f", "GRU": "#2a9d5c", "LSTM": "#3d74e6"}


def main() -> None:
    """Read the table and draw it."""
    lines = [line for line in PAGE.read_text().splitlines() if line.count("|") == 8]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    figure = go.Figure()
    for layer, color in COLORS.items():
        of_layer = [row for row in rows if row[1] == layer]
        figure.add_bar(
            x=[row[0] for row in of_layer],
            y=[float(row[5]) for row in of_layer],
            text=[row[5] for row in of_layer],
            textposition="outside",
            name=layer,
            marker_color=color,
        )
    figure.add_hline(y=1, line={"dash": "dot", "color": "gray"})
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=380,
        margin={"t": 20, "r": 20},
        barmode="group",
        yaxis={"title": "torch.nn's time / ours"},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
