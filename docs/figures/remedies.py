"""Draws docs/figures/remedies.png: the gradient by lag before and after training, by remedy.

The temporal order task at a short length: what each remedy does to the gradient of the last loss,
for a network that has not been trained yet, and after a number of updates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import bptt

LENGTH, UPDATES, HIDDEN, SEQUENCES = 50, 4000, 50, 32
GAUSSIAN, NEAR_ONE = bptt.Initial(W="gaussian"), bptt.Initial(W="gaussian", radius=0.95)
REMEDIES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "none": ({"init": GAUSSIAN}, {}),
    "spectral radius 0.95": ({"init": NEAR_ONE}, {}),
    "orthogonal start": ({"init": "orthogonal"}, {}),
    "Ω": ({"init": GAUSSIAN}, {"omega": 1.0}),
    "leaks from 0.02 to 1": ({"init": GAUSSIAN, "leak": (0.02, 1.0)}, {}),
    "skips of 5 and 25": ({"init": GAUSSIAN, "skips": (5, 25)}, {}),
    "layer normalisation": ({"init": GAUSSIAN, "norm": True}, {}),
    "identity start, relu": ({"init": "identity", "cell": "relu"}, {}),
    "lstm": ({"cell": "lstm"}, {}),
    "lstm, chrono": ({"cell": "lstm", "init": bptt.Initial(chrono=LENGTH)}, {}),
}
COLORS = [
    *("#4a4f59", "#8a8f98", "#2a9d5c", "#d3242c", "#00a1a1"),
    *("#b5651d", "#e377c2", "#d98a1f", "#2459d3", "#8a4fbf"),
]


def look(net: bptt.Network, task: bptt.Task) -> bptt.GradientFlow:
    """Return the flow of the gradient of the last loss."""
    y, x, *_ = task.validation_batches(1).get(0, 0)
    assert x is not None
    weights = torch.zeros(LENGTH, SEQUENCES)
    weights[-1] = 1
    return bptt.gradient_flow(net, y[:, :SEQUENCES], x=x[:, :SEQUENCES], loss_weights=weights)


def tried(
    shape: dict[str, object], how: dict[str, object]
) -> tuple[bptt.GradientFlow, bptt.GradientFlow, float]:
    """Return the flow before and after training, and the share of wrong answers then."""
    torch.manual_seed(0)
    task = bptt.Task.parse("order", LENGTH)
    usual = {"inputs": task.inputs, "hidden": HIDDEN, "recurrence": "hidden"}
    net = bptt.Network(task.likelihood, **{**usual, **shape})  # type: ignore[arg-type]
    before = look(net, task)
    settings = {"max_updates": UPDATES, "learning_rate": 1e-3, "stop_when_solved": False}
    done = bptt.fit(net, task, bptt.Settings(**{**settings, **how}))  # type: ignore[arg-type]
    assert done.score is not None
    return before, look(net, task), done.score


def draw(found: dict[str, tuple[bptt.GradientFlow, bptt.GradientFlow, float]]) -> go.Figure:
    """Return the picture."""
    titles = ["before training", f"after {UPDATES:,} updates"]
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True)
    for (name, (*flows, wrong)), color in zip(found.items(), COLORS, strict=True):
        for column, flow in enumerate(flows, start=1):
            norms = flow.norms[-1]
            shown = np.where(norms > 0, norms / norms[0], np.nan)
            figure.add_scatter(
                y=shown,
                name=f"{name}: {wrong:.0%} wrong",
                line_color=color,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="lag, steps back from the last loss")
    figure.update_yaxes(type="log", range=[-12, 2], exponentformat="power")
    figure.update_yaxes(title="gradient, relative to lag 0", row=1, col=1)
    figure.update_layout(template="plotly_white", width=1080, height=420, margin={"t": 40, "r": 20})
    return figure


if __name__ == "__main__":
    found = {}
    for name, (shape, how) in REMEDIES.items():
        found[name] = tried(shape, how)
        before, after, wrong = found[name]
        print(
            f"{name}: growth {before.growth:.3f} before, {after.growth:.3f} after; "
            f"{wrong:.1%} wrong after {UPDATES:,} updates"
        )
    draw(found).write_image(Path(__file__).with_suffix(".png"), scale=2)
