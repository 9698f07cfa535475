"""Draws docs/figures/program.png: the program of a leaky cell's step, and that of its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from bptt.kernel import ops
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.program import Program
from bptt.kernel.record import Traced

SOURCES = {
    "p": "p",
    "state": "h, one step before",
    "arrived": "∂L/∂h from later",
    "above": "∂L/∂h from above",
    "saved": "relu, kept",
}
WORDS = {"product": "product with W", "back": "product with Wᵀ", "at_least": "≥"}
RESULTS = {
    "new": "h",
    "p": "δ = ∂L/∂p",
    "state": "∂L/∂h, one<br>step before",
    "product": "δ = ∂L/∂p",
    "z": "z: ∂L/∂W = Σ δ zᵀ",
}
COLOURS = {"source": "#4c78a8", "kept": "#e45756", "operation": "#bab0ac", "result": "#54a24b"}


def leaky(W: Tensor) -> Any:
    """Return the step h ← h + (relu(p + W h) − h) / 10."""

    def step(p: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        return (torch.lerp(h, torch.relu(p + h @ W.T), 0.1),)

    return step


def depths(program: Program) -> list[int]:
    """Return how many operations stand before each line, one after the other."""
    before: list[int] = []
    for value in program.values:
        before.append(max((before[arg] + 1 for arg in value.args), default=0))
    return before


def draw(figure: go.Figure, program: Program, row: int) -> None:
    """Draw one program: operations from left to right, what each reads by lines."""
    shown = [i for i, value in enumerate(program.values) if value.op != "constant"]
    depth, places, beside = depths(program), dict[int, tuple[float, float]](), dict[int, int]()
    for line in shown:
        count = sum(depth[other] == depth[line] for other in shown)
        beside[depth[line]] = beside.get(depth[line], 0) + 1
        apart = (count - 1) / 2 - beside[depth[line]] + 1
        places[line] = (depth[line], apart + (0.4 if depth[line] % 2 else -0.4))
    results = {line: name for name, line in [*program.results.items()][::-1]}
    for line in shown:
        value, (x, y) = program.values[line], places[line]
        constants = [
            f"{program.values[arg].at[0]:g}"
            for arg in value.args
            if program.values[arg].op == "constant"
        ]
        label = " ".join([SOURCES.get(value.op, WORDS.get(value.op, value.op)), *constants])
        kind = "operation" if value.args else "kept" if value.op == "saved" else "source"
        if line in results:
            label = f"{label}<br><b>→ {RESULTS[results[line][0]]}</b>"
            kind = "result" if value.args else kind
        for from_x, from_y in (places[arg] for arg in value.args if arg in places):
            line_to = {"x0": from_x, "y0": from_y, "x1": x, "y1": y, "line": {"color": "#ccc"}}
            figure.add_shape(type="line", layer="below", row=row, col=1, **line_to)
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers+text",
            text=label,
            textposition="top center",
            marker={"size": 15, "color": COLOURS[kind]},
            row=row,
            col=1,
        )


def main() -> None:
    """Trace, print and draw."""
    source, h0 = Source(torch.randn(5, 4, 32)), torch.zeros(4, 32)
    traced = ops.native(Recipe(leaky, (torch.randn(32, 32),)), source, (h0,))
    assert isinstance(traced, Traced), traced
    titles = ["a step", "its gradient"]
    figure = make_subplots(2, 1, subplot_titles=titles, row_heights=[0.38, 0.62])
    for row, program in enumerate((traced.program, traced.step.gradient.program), start=1):
        print(program)
        draw(figure, program, row)
    figure.update_layout(
        template="plotly_white",
        width=900,
        height=620,
        showlegend=False,
        margin={"t": 40, "r": 20, "l": 20, "b": 10},
    )
    figure.update_xaxes(visible=False).update_yaxes(visible=False, range=[-2.2, 2.2])
    figure.update_yaxes(range=[-1.2, 1.4], row=1, col=1)
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
