"""Draws docs/figures/composition.png: the same step, composed with itself, along a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

import bptt

FACTOR, SHOWN, H = 2.5, (1, 2, 4, 6), 100
COLORS = ["#d98a1f", "#2a9d5c", "#2459d3", "#7b2cbf"]


def profile() -> bptt.CompositionProfile:
    """Return the profile of an untrained tanh network with large weights."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(1), inputs=1, hidden=H, recurrence="hidden")
    with torch.no_grad():
        net.recurrent.get_parameter("weight_hh_l0").mul_(FACTOR)
    return bptt.composition_profile(net, steps=max(SHOWN), points=1200)


def turns(values: np.ndarray) -> int:
    """Return how often a curve changes direction."""
    slope = np.sign(np.diff(values))
    return int((slope[1:] != slope[:-1]).sum())


def draw(found: bptt.CompositionProfile) -> go.Figure:
    """Return the picture."""
    figure = go.Figure()
    for steps, color in zip(SHOWN, COLORS, strict=True):
        figure.add_scatter(
            x=found.coordinate,
            y=found.values[steps],
            name=f"{steps} step{'s' if steps > 1 else ''}",
            line_color=color,
        )
    figure.update_xaxes(title="where on the line it starts")
    figure.update_yaxes(title="projection of the state")
    figure.update_layout(template="plotly_white", width=820, height=420, margin={"t": 20, "r": 20})
    return figure


if __name__ == "__main__":
    found = profile()
    print("changes of direction:", [turns(values) for values in found.values])
    draw(found).write_image(Path(__file__).with_suffix(".png"), scale=2)
