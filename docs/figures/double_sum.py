"""Draws docs/figures/double_sum.png: every term of the textbook's double sum, on real text.

Trains a tanh network of 64 units on the built-in text, then measures for one stretch of it the
norm of each term (j, k) of ∂L/∂W: ‖∂Lⱼ/∂aₖ‖ · ‖hₖ₋₁‖, since the term is their outer product.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import Tensor

import bptt
from bptt.cells.elman import elman
from bptt.kernel.plain_loop import unroll

STEPS, WINDOW, START = 60, 20, 40_000


def train() -> tuple[bptt.Network, bptt.Text]:
    """Return a trained network and its text."""
    torch.manual_seed(0)
    text = bptt.read_text()
    net = bptt.Network(bptt.Categorical(text.vocabulary.size), hidden=64)
    bptt.fit(net, text, bptt.Settings(max_updates=600))
    return net, text


def term_norms(net: bptt.Network, y: Tensor) -> Tensor:
    """Return ‖term (j, k)‖ of the double sum for the T steps of y, (T, T), 0 for k > j."""
    a = net.likelihood.encoding.project(y[:-1], net.R) + net.recurrent.get_parameter("bias_ih_l0")
    a = a.detach().requires_grad_()
    step = elman(net.recurrent.get_parameter("weight_hh_l0"), torch.tanh)
    h, _ = unroll(step, a, (torch.zeros(1, net.recurrent.hidden_size),))
    nll = net.likelihood.nll(net.readout(h), y[1:])
    rows = [torch.autograd.grad(loss, a, retain_graph=True)[0] for loss in nll[:, 0]]
    previous_h = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    norms: Tensor = torch.stack(rows).norm(dim=-1)[:, :, 0] * previous_h.norm(dim=-1)[:, 0].detach()
    return norms


def draw(norms: Tensor) -> go.Figure:
    """Return the picture of the terms, with the blocks that truncation keeps outlined."""
    T = len(norms)
    shown = torch.where(torch.ones(T, T).tril() > 0, norms, torch.nan).log10()
    figure = go.Figure(
        go.Heatmap(
            z=shown.numpy(),
            x=list(range(1, T + 1)),
            y=list(range(1, T + 1)),
            zmin=-5,
            zmax=1,
            colorscale="Viridis",
            colorbar={"title": "log₁₀ norm"},
        )
    )
    for start in range(0, T, WINDOW):
        corners = {"x0": start + 0.5, "x1": start + WINDOW + 0.5}
        figure.add_shape(
            type="rect",
            **corners,
            y0=corners["x0"],
            y1=corners["x1"],
            line={"color": "crimson", "width": 2},
        )
    figure.update_layout(
        title=f"The terms of ∂L/∂W; those in red boxes are what a window of {WINDOW} keeps",
        xaxis_title="state step k, whose use of W is credited",
        yaxis={"title": "loss step j", "autorange": "reversed", "scaleanchor": "x"},
        template="plotly_white",
        width=760,
        height=640,
    )
    return figure


if __name__ == "__main__":
    net, text = train()
    norms = term_norms(net, text.training[START : START + STEPS + 1].unsqueeze(1))
    draw(norms).write_image(Path(__file__).with_suffix(".png"), scale=2)
    chunk = torch.arange(STEPS) // WINDOW
    outside = norms[chunk.unsqueeze(0) != chunk.unsqueeze(1)].sum() / norms.sum()
    print(f"the terms outside the boxes carry {float(outside):.1%} of the summed norms")
