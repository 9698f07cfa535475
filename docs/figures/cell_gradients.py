"""Draws cell_gradients.png: what is left of a gradient 50 steps back in each cell, before training.

64 units, random symbols, T = 100: the typical norm of ∂Lⱼ/∂sⱼ₋₅₀ against that of ∂Lⱼ/∂sⱼ.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import torch

import bptt
from bptt.cells.registry import CELLS

T, B, H, LAG = 100, 16, 64, 50


def main() -> None:
    """Compute and draw."""
    left = {}
    for name in CELLS:
        torch.manual_seed(0)
        net = bptt.Network(bptt.Categorical(5), cell=name, hidden=H)
        by_lag = bptt.gradient_flow(net, torch.randint(5, (T, B)), max_lag=LAG).typical_by_lag
        left[name] = float(by_lag[LAG] / by_lag[0])
    names = sorted(left, key=lambda name: left[name])
    values = [left[name] for name in names]
    figure = go.Figure(go.Scatter(x=values, y=names, mode="markers", marker={"size": 10}))
    figure.add_vline(x=1, line={"dash": "dot", "color": "gray"})
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=520,
        margin={"t": 20, "r": 20},
        xaxis={
            "title": f"what is left of a gradient {LAG} steps back",
            "type": "log",
            "exponentformat": "power",
        },
        yaxis={"dtick": 1},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
