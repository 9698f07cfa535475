"""Draws docs/figures/likelihoods.png: the density of the next value, by four likelihoods.

The series is −1 or 1, as a coin says, and a little noise; one value in fifty lies far off.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import torch

import bptt

LIKELIHOODS = [
    bptt.Gaussian(1),
    bptt.Laplace(1),
    bptt.StudentT(1),
    bptt.GaussianMixture(1, components=4),
]
COLORS = ["#d3242c", "#e08a1e", "#2459d3", "#2a9d5c"]
UPDATES, T, B = 400, 100, 32


def series() -> torch.Tensor:
    """Return what the networks learn."""
    y = torch.where(torch.rand(T, B, 1) < 0.5, -1.0, 1.0) + 0.15 * torch.randn(T, B, 1)
    return torch.where(torch.rand(T, B, 1) < 0.02, 8 * torch.randn(T, B, 1), y)


def trained(likelihood: bptt.Likelihood) -> tuple[bptt.Network, float]:
    """Return a network, and its loss on other series, in nats a step."""
    torch.manual_seed(0)
    net = bptt.Network(likelihood, hidden=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(UPDATES):
        optimizer.zero_grad()
        bptt.backward(net, series())
        optimizer.step()
    return net, float(net(series()).nll.detach().mean())


def draw(nets: list[bptt.Network]) -> go.Figure:
    """Return the picture."""
    torch.manual_seed(1)
    y, at = series(), torch.linspace(-3, 3, 601)
    figure = go.Figure()
    figure.add_histogram(
        x=y.flatten().numpy(),
        histnorm="probability density",
        xbins={"start": -3, "end": 3, "size": 0.1},
        marker_color="#c9cdd4",
        name="the values",
    )
    for net, color in zip(nets, COLORS, strict=True):
        o = net(y[:, :1]).outputs[-1:].detach().expand(1, len(at), -1)
        density = torch.exp(-net.likelihood.nll(o, at.view(1, -1, 1))).detach()[0]
        name = type(net.likelihood).__name__
        figure.add_scatter(x=at.numpy(), y=density.numpy(), name=name, line_color=color)
    figure.update_xaxes(title="the next value", range=[-3, 3])
    figure.update_yaxes(title="density")
    figure.update_layout(template="plotly_white", width=980, height=400, margin={"t": 20, "r": 20})
    return figure


if __name__ == "__main__":
    found = [trained(likelihood) for likelihood in LIKELIHOODS]
    for net, loss in found:
        print(f"{type(net.likelihood).__name__}: {loss:.2f} nats a step")
    draw([net for net, _ in found]).write_image(
        Path(__file__).with_name("likelihoods.png"), scale=1.5
    )
