"""Draws docs/figures/truncation.png: what a window and its stride keep, and what cutting costs.

Above: the terms of the double sum that stay, for the network and the text of double_sum.py. Below:
the relative error ‖truncated − exact‖ / ‖exact‖ of ∂L/∂W, of 1,000 steps of 8 sequences.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import torch
from double_sum import START, STEPS, term_norms, train
from plotly.subplots import make_subplots
from torch import Tensor

import bptt

WINDOW, STRIDES = 20, (20, 5, 1)
WINDOWS = [2, 5, 10, 20, 50, 100, 200]
COLORS = ["#d3242c", "#2a9d5c", "#2459d3"]


def kept(T: int, window: int, stride: int) -> Tensor:
    """Return which terms (j, k) stay, (T, T): k > e − p for the end e of loss j's block."""
    j, k = torch.arange(T).unsqueeze(1), torch.arange(T)
    e = ((j // stride + 1) * stride).clamp(max=T)
    return (k <= j) & (k >= e - window)


def errors(net: bptt.Network, y: Tensor) -> dict[str, list[float]]:
    """Return the relative error of ∂L/∂W for each window, with three strides."""

    def gradient(window: int | None = None, stride: int | None = None) -> Tensor:
        net.zero_grad()
        bptt.backward(net, y, window=window, stride=stride)
        grad = net.recurrent.get_parameter("weight_hh_l0").grad
        assert grad is not None
        return grad.clone()

    exact = gradient()

    def error(window: int, stride: int) -> float:
        return float((gradient(window, stride) - exact).norm() / exact.norm())

    return {
        "stride = window": [error(p, p) for p in WINDOWS],
        "stride = window / 2": [error(p, p // 2) for p in WINDOWS],
        "stride = 1": [error(p, 1) for p in WINDOWS],
    }


def draw(norms: Tensor, found: dict[str, list[float]]) -> go.Figure:
    """Return the picture."""
    titles = [f"window {WINDOW}, stride {stride}" for stride in STRIDES]
    figure = make_subplots(
        2,
        3,
        specs=[[{}, {}, {}], [{"colspan": 3}, None, None]],
        subplot_titles=[*titles, "error of ∂L/∂W, relative to the exact gradient"],
        row_heights=[0.55, 0.45],
        vertical_spacing=0.14,
    )
    T = len(norms)
    axis = list(range(1, T + 1))
    for i, stride in enumerate(STRIDES):
        shown = torch.where(kept(T, WINDOW, stride), norms, torch.nan).log10().numpy()
        lost = torch.where(torch.ones(T, T).tril() > 0, 0.0, torch.nan).numpy()
        grey = [[0, "#e4e4e4"], [1, "#e4e4e4"]]
        figure.add_heatmap(
            x=axis, y=axis, z=lost, colorscale=grey, showscale=False, row=1, col=i + 1
        )
        figure.add_heatmap(
            x=axis,
            y=axis,
            z=shown,
            zmin=-5,
            zmax=1,
            colorscale="Viridis",
            showscale=i == 0,
            colorbar={"title": "log₁₀ norm", "len": 0.5, "y": 0.77},
            row=1,
            col=i + 1,
        )
        figure.update_xaxes(title="state step k", row=1, col=i + 1)
        figure.update_yaxes(autorange="reversed", row=1, col=i + 1)
    figure.update_yaxes(title="loss step j", row=1, col=1)
    for (name, values), color in zip(found.items(), COLORS, strict=True):
        figure.add_scatter(
            x=WINDOWS,
            y=values,
            name=name,
            mode="lines+markers",
            line_color=color,
            row=2,
            col=1,
        )
    figure.update_xaxes(title="window p, steps", type="log", tickvals=WINDOWS, row=2, col=1)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", row=2, col=1)
    figure.update_layout(
        template="plotly_white",
        width=980,
        height=720,
        margin={"t": 40, "r": 20},
        legend={"x": 0.8, "y": 0.36},
    )
    return figure


if __name__ == "__main__":
    net, text = train()
    norms = term_norms(net, text.training[START : START + STEPS + 1].unsqueeze(1))
    found = errors(net, text.training[:8000].view(8, 1000).t())
    for name, values in found.items():
        print(name, {p: f"{value:.1e}" for p, value in zip(WINDOWS, values, strict=True)})
    draw(norms, found).write_image(Path(__file__).with_suffix(".png"), scale=2)
