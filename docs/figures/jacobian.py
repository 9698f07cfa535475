"""Draws docs/figures/jacobian.png: singular values of one step, and the exponents of many.

A tanh network before training, W being orthogonal times a factor, driven by weak noise. Left: the
singular values of ∂hₘ/∂hₘ₋₁, the middle step of the run. Right: the Lyapunov exponents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import bptt

FACTORS, COLORS = (0.9, 1.5, 3.0), ["#d3242c", "#2a9d5c", "#2459d3"]
H, T = 64, 1500


def measure(factor: float) -> tuple[np.ndarray, bptt.Lyapunov]:
    """Return the singular values of a step, and the exponents."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(1), inputs=1, hidden=H, recurrence="hidden")
    with torch.no_grad():
        net.recurrent.get_parameter("weight_hh_l0").mul_(factor)
        net.recurrent.get_parameter("weight_ih_l0").mul_(0.1)
    x, y = torch.randn(T, 1, 1), torch.zeros(T, 1, 1)
    values = bptt.jacobians(net, y, x=x, steps=3).singular_values[1, 0]
    return values, bptt.lyapunov_exponents(net, y, x=x)


def draw(found: dict[float, tuple[np.ndarray, bptt.Lyapunov]]) -> go.Figure:
    """Return the picture."""
    titles = ["singular values of one step", "Lyapunov exponents, nats a step"]
    figure = make_subplots(1, 2, subplot_titles=titles)
    for (factor, (values, lyapunov)), color in zip(found.items(), COLORS, strict=True):
        for column, y in ((1, values), (2, lyapunov.exponents)):
            figure.add_scatter(
                x=list(range(1, H + 1)),
                y=y,
                name=f"{factor} × orthogonal",
                line_color=color,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.add_hline(y=1, line={"dash": "dash", "color": "#888"}, row=1, col=1)
    figure.add_hline(y=0, line={"dash": "dash", "color": "#888"}, row=1, col=2)
    figure.update_xaxes(title="number i")
    figure.update_yaxes(range=[-3, 0.5], row=1, col=2)
    figure.update_layout(template="plotly_white", width=980, height=400, margin={"t": 40, "r": 20})
    return figure


if __name__ == "__main__":
    found = {factor: measure(factor) for factor in FACTORS}
    for factor, (values, lyapunov) in found.items():
        print(
            f"{factor}: singular values {values[0]:.2f} to {values[-1]:.2f}, "
            f"largest exponent {lyapunov.exponents[0]:.3f}"
        )
    draw(found).write_image(Path(__file__).with_suffix(".png"), scale=2)
