"""Draws docs/figures/normalisation.png: how fast the gradient grows, by the scale of W."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

import bptt

SCALES = np.logspace(-2, 2, 17, base=2)
LENGTH, HIDDEN, SEQUENCES = 60, 64, 8
COLORS = {False: "#4a4f59", True: "#d3242c"}


def growth(scale: float, *, norm: bool) -> float:
    """Return the growth a step of a network whose weights are multiplied by a scale."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(8), hidden=HIDDEN, norm=norm)
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_ih_l0"):
            net.recurrent.get_parameter(name).mul_(scale)
    return bptt.gradient_flow(net, torch.randint(8, (LENGTH, SEQUENCES))).growth


if __name__ == "__main__":
    figure = go.Figure()
    for norm, color in COLORS.items():
        found = [growth(scale, norm=norm) for scale in SCALES]
        name = "with layer normalisation" if norm else "without"
        print(f"{name}: growth from {min(found):.3f} to {max(found):.3f}")
        figure.add_scatter(x=SCALES, y=found, name=name, line_color=color, mode="lines+markers")
    figure.update_xaxes(title="scale of W, U and R", type="log", dtick="L1")
    figure.update_xaxes(tickvals=[0.25, 0.5, 1, 2, 4], ticktext=["1/4", "1/2", "1", "2", "4"])
    figure.update_yaxes(title="growth of the gradient, a step back", rangemode="tozero")
    figure.update_layout(template="plotly_white", width=720, height=380, margin={"t": 20, "r": 20})
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)
