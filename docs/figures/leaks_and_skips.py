"""Draws docs/figures/leaks_and_skips.png: the gradient by lag where ways lead past W.

Networks that have not been trained, whose W by itself lets the gradient vanish.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

import bptt

LENGTH, HIDDEN, SEQUENCES, LEFT = 150, 64, 16, 0.1
LOOPS: dict[str, dict[str, object]] = {
    "W alone": {},
    "leak 0.1": {"leak": 0.1},
    "leaks from 0.01 to 1": {"leak": (0.01, 1.0)},
    "skips of 10": {"skips": 10},
    "skips of 4, 16 and 64": {"skips": (4, 16, 64)},
}
COLORS = ["#4a4f59", "#2459d3", "#2a9d5c", "#d98a1f", "#d3242c"]


def by_lag(loop: dict[str, object]) -> np.ndarray:
    """Return the gradient's norm by lag, relative to that of lag 0."""
    torch.manual_seed(0)
    start = bptt.Initial(W="gaussian", radius=0.8)
    net = bptt.Network(bptt.Categorical(8), hidden=HIDDEN, init=start, **loop)  # type: ignore[arg-type]
    weights = torch.zeros(LENGTH, SEQUENCES)
    weights[-1] = 1
    flow = bptt.gradient_flow(net, torch.randint(8, (LENGTH, SEQUENCES)), loss_weights=weights)
    norms = flow.norms[-1]
    shown: np.ndarray = np.where(norms > 0, norms / norms[0], np.nan)
    return shown


def draw(found: dict[str, np.ndarray]) -> go.Figure:
    """Return the picture."""
    figure = go.Figure()
    for (name, norms), color in zip(found.items(), COLORS, strict=True):
        figure.add_scatter(y=norms, name=name, line_color=color)
    figure.update_xaxes(title="lag, steps back from the last loss")
    figure.update_yaxes(type="log", range=[-8, 0.5], exponentformat="power")
    figure.update_yaxes(title="gradient, relative to lag 0")
    return figure.update_layout(
        template="plotly_white", width=820, height=420, margin={"t": 20, "r": 20}
    )


if __name__ == "__main__":
    found = {name: by_lag(loop) for name, loop in LOOPS.items()}
    for name, norms in found.items():
        far = np.flatnonzero(norms > LEFT)
        print(f"{name}: more than a tenth is left up to {far[-1]} steps back")
    draw(found).write_image(Path(__file__).with_suffix(".png"), scale=2)
