"""Draws docs/figures/kernel.png: arithmetic a second of a training step, against the layer's width.

T = 256 steps of B = 32 sequences with 64 inputs, forward and backward, one tanh layer, all cores.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch

import bptt

T, B, I, ROUNDS = 256, 32, 64, 7  # noqa: E741
WIDTHS = [32, 64, 128, 256, 512, 1024]


def speeds(width: int) -> dict[str, float]:
    """Return the median billions of operations a second of each package's training step."""
    layers: dict[str, Any] = {
        "torch.nn.RNN": torch.nn.RNN(I, width),
        "bptt.RNN": bptt.RNN(I, width),
    }
    x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, width)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for i in range(ROUNDS + 1):
        for name, layer in layers.items():
            began = time.perf_counter()
            torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], grad)
            if i > 0:
                times[name].append(time.perf_counter() - began)
    work = 3 * 2 * T * B * width * (width + I)
    return {name: work / statistics.median(some) / 1e9 for name, some in times.items()}


def main() -> None:
    """Measure, print and draw."""
    found = [speeds(width) for width in WIDTHS]
    figure = go.Figure()
    for name in found[0]:
        values = [speed[name] for speed in found]
        print(name, [round(value) for value in values], "GFLOP/s at", WIDTHS)
        figure.add_scatter(x=WIDTHS, y=values, name=name, mode="lines+markers")
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=400,
        margin={"t": 20, "r": 20},
        xaxis={"title": "hidden units", "type": "log", "tickvals": WIDTHS},
        yaxis={"title": "billions of operations a second", "rangemode": "tozero"},
        legend={"x": 0.02, "y": 0.98},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
