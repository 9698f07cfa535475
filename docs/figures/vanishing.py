"""Draws docs/figures/vanishing.png: what becomes of a gradient on its way back.

Left: networks whose W is an orthogonal matrix times a factor, before training. Right: three cells
after training on the built-in text. The growths, horizons and verdicts are printed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import bptt

FACTORS, CELLS = (0.9, 1.0, 1.5), ("tanh", "gru", "lstm")
COLORS = ["#d3242c", "#2a9d5c", "#2459d3"]
T, B, UPDATES = 200, 8, 600


def scaled(factor: float) -> bptt.GradientFlow:
    """Return the flow of a tanh network on noise, W being orthogonal times a factor."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(1), hidden=64, inputs=1, recurrence="hidden", cell="tanh")
    with torch.no_grad():
        net.recurrent.get_parameter("weight_hh_l0").mul_(factor)
        net.recurrent.get_parameter("weight_ih_l0").mul_(0.1)
    x, y = torch.randn(T, B, 1), torch.randn(T, B, 1)
    return bptt.gradient_flow(net, y, x=x)


def trained(cell: str, text: bptt.Text) -> bptt.GradientFlow:
    """Return the flow of a network that has learnt a text, on the part that it has not seen."""
    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=64, cell=cell)
    bptt.fit(net, text, bptt.Settings(max_updates=UPDATES))
    y = text.validation[: T * B].view(B, T).t()
    return bptt.gradient_flow(net, y, window=100)


def draw(left: dict[str, bptt.GradientFlow], right: dict[str, bptt.GradientFlow]) -> go.Figure:
    """Return the picture."""
    titles = ["before training, W = factor × orthogonal", "after training on text"]
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True)
    for column, flows in ((1, left), (2, right)):
        for (name, flow), color in zip(flows.items(), COLORS, strict=True):
            norms = np.where(flow.by_lag > 0, flow.by_lag, np.nan) / flow.by_lag[0]
            figure.add_scatter(
                y=norms, name=f"{name}: {flow.verdict}", line_color=color, row=1, col=column
            )
        figure.update_xaxes(title="lag, steps back", row=1, col=column)
    axis = {"type": "log", "range": [-8, 2], "exponentformat": "power"}
    figure.update_yaxes(**axis)
    figure.update_yaxes(title="gradient, relative to lag 0", row=1, col=1)
    figure.update_layout(template="plotly_white", width=980, height=420, margin={"t": 40, "r": 20})
    return figure


if __name__ == "__main__":
    text = bptt.read_text()
    left = {f"factor {factor}": scaled(factor) for factor in FACTORS}
    right = {cell: trained(cell, text) for cell in CELLS}
    for name, flow in (left | right).items():
        low, high = flow.growth_interval
        print(
            f"{name}: {flow.growth:.3f} a step ({low:.3f} to {high:.3f}), {flow.verdict}, "
            f"horizon {flow.horizon()}"
        )
    draw(left, right).write_image(Path(__file__).with_suffix(".png"), scale=2)
