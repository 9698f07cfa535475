"""Draws docs/figures/eigenvalues.png: powers of W, and the fixed points of a flip-flop.

Left: the eigenvalues of three matrices; middle: the norm of v Wⁿ, predicted from the eigenvalues
and measured. Right: where a network that has learnt to remember three bits rests, in the plane of
its outputs 1 and 2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

import bptt

RADII, COLORS = (0.9, 1.0, 1.1), ["#d3242c", "#2a9d5c", "#2459d3"]
H, POWERS, UPDATES = 48, 60, 900


def flip_flop(T: int, B: int) -> tuple[Tensor, Tensor]:
    """Return y and x of the 3-bit flip-flop: rare pulses of ±1, and the sign of the last one."""
    x = torch.where(torch.rand(T, B, 3) < 0.15, torch.randint(0, 2, (T, B, 3)) * 2.0 - 1, 0.0)
    x[0] = torch.randint(0, 2, (B, 3)) * 2.0 - 1
    y = x.clone()
    for t in range(1, T):
        y[t] = torch.where(x[t] == 0, y[t - 1], x[t])
    return y, x


def trained() -> bptt.Network:
    """Return a network that has learnt the flip-flop."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(3, scale="fixed"), inputs=3, hidden=H, recurrence="hidden")
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    for step in range(UPDATES):
        y, x = flip_flop(40, 64)
        optimizer.zero_grad()
        bptt.backward(net, y, x=x)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / UPDATES)
        optimizer.step()
    return net


def spectra() -> dict[float, bptt.Spectrum]:
    """Return the spectrum of random matrices of three spectral radii."""
    found = {}
    for radius in RADII:
        torch.manual_seed(0)
        net = bptt.Network(bptt.Gaussian(1), hidden=H, inputs=1, recurrence="hidden")
        W = net.recurrent.get_parameter("weight_hh_l0")
        with torch.no_grad():
            W.normal_()
            W.mul_(radius / bptt.spectrum(net).spectral_radius)
        found[radius] = bptt.spectrum(net)
    return found


def draw(
    found: dict[float, bptt.Spectrum], net: bptt.Network, rest: bptt.FixedPoints, visited: Tensor
) -> go.Figure:
    """Return the picture."""
    titles = ["eigenvalues of W", "norm of v Wⁿ", "where a 3-bit memory rests"]
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    angle = np.linspace(0, 2 * np.pi, 181)
    grey = {"color": "#999"}
    figure.add_scatter(x=np.cos(angle), y=np.sin(angle), line=grey, showlegend=False, row=1, col=1)
    for (radius, one), color in zip(found.items(), COLORS, strict=True):
        points = {"mode": "markers", "marker": {"color": color, "size": 5}, "showlegend": False}
        figure.add_scatter(x=one.eigenvalues.real, y=one.eigenvalues.imag, **points, row=1, col=1)
        predicted, measured = one.powers(np.ones(H, dtype=one.W.dtype) / H**0.5, POWERS)
        figure.add_scatter(y=predicted, name=f"radius {radius}", line_color=color, row=1, col=2)
        figure.add_scatter(y=measured[::6], x=list(range(0, POWERS + 1, 6)), **points, row=1, col=2)
    for name, states, color, size in (
        ("visited", visited, "#bbb", 3),
        ("at rest, unstable", torch.from_numpy(rest.points[~rest.stable]), "#d98a1f", 7),
        ("at rest, stable", torch.from_numpy(rest.points[rest.stable]), "#7b2cbf", 11),
    ):
        with torch.no_grad():
            outputs = net.readout(states.float())
        figure.add_scatter(
            x=outputs[:, 0],
            y=outputs[:, 1],
            name=name,
            mode="markers",
            marker={"color": color, "size": size},
            row=1,
            col=3,
        )
    figure.update_xaxes(title="real part", scaleanchor="y", row=1, col=1)
    figure.update_xaxes(title="n", row=1, col=2)
    figure.update_xaxes(title="output 1", row=1, col=3)
    figure.update_yaxes(title="imaginary part", row=1, col=1)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", row=1, col=2)
    figure.update_yaxes(title="output 2", row=1, col=3)
    figure.update_layout(
        template="plotly_white", width=1280, height=420, margin={"t": 40, "r": 20, "l": 40}
    )
    return figure


if __name__ == "__main__":
    found, net = spectra(), trained()
    for radius, one in found.items():
        print(f"radius {radius}: largest singular value {one.singular_values[0]:.2f}")
    with torch.no_grad():
        visited = net(*flip_flop(40, 24)).hidden.flatten(0, 1)
    rest = bptt.fixed_points(net, visited)
    print(f"{rest.stable.sum()} stable fixed points, {(~rest.stable).sum()} unstable")
    draw(found, net, rest, visited).write_image(Path(__file__).with_suffix(".png"), scale=2)
