"""Draws docs/figures/bounded_memory.png: the order of the runs, and what a budget buys.

Left and middle: two schedules for ten chunks, as `revolve` gives them. Right: what `bptt.plan` says
for a million steps, against the budget.
"""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import bptt
from bptt.gradient.exact.schedule import Hold, revolve

LEAST = 600_000
"""Bytes of the smallest budget that is drawn: a step and the threads of a few cores fit in it."""
CHUNKS, ROOMS, T = 10, (9, 2), 1_000_000
GREY, BLUE, RED = "#b9bec9", "#2459d3", "#d3242c"


def runs(room: int) -> tuple[list[tuple[int, int, bool]], list[tuple[int, int]]]:
    """Return (row, chunk, with gradient) of every run, and (row, chunk) of every state held."""
    found, holds, held, row = [], [], [0], 0
    for action in revolve(CHUNKS, room):
        for chunk in range(held[-1], action.chunk):
            found.append((row, chunk, False))
            row += 1
        if isinstance(action, Hold):
            holds.append((row - 1, action.chunk))
            held.append(action.chunk)
            continue
        found.append((row, action.chunk, True))
        row += 1
        if held[-1] == action.chunk:
            held.pop()
    return found, holds


def add_schedule(figure: go.Figure, col: int, room: int) -> None:
    """Add the runs of a schedule with room for so many states, in order."""
    found, holds = runs(room)
    for is_reverse, color, name in (
        (False, GREY, "run forward only"),
        (True, BLUE, "run forward and back"),
    ):
        some = [(row, chunk) for row, chunk, reverse in found if reverse == is_reverse]
        figure.add_bar(
            x=[1] * len(some),
            base=[chunk for _, chunk in some],
            y=[row for row, _ in some],
            orientation="h",
            marker_color=color,
            name=name,
            showlegend=col == 1,
            row=1,
            col=col,
        )
    figure.add_scatter(
        x=[chunk for _, chunk in holds],
        y=[row for row, _ in holds],
        mode="markers",
        marker={"color": RED, "size": 7},
        name="state held",
        showlegend=col == 1,
        row=1,
        col=col,
    )
    figure.update_yaxes(autorange="reversed", title="run" if col == 1 else "", row=1, col=col)
    figure.update_xaxes(title="chunk, in time", range=[0, CHUNKS], dtick=1, row=1, col=col)


def draw() -> go.Figure:
    """Return the picture."""
    net = bptt.Network(bptt.Categorical(65))
    full = bptt.plan(net, T, 1)
    assert full.memory is not None
    budgets = [int(LEAST * 1.1**i) for i in range(100) if LEAST * 1.1**i < 1.2 * full.memory]
    plans = [bptt.plan(net, T, 1, budget) for budget in budgets]
    once = [budget for budget, plan in zip(budgets, plans, strict=True) if plan.recomputation <= 1]
    print(
        f"all states kept: {full.memory / 1e6:,.0f} MB; at most one more forward pass from "
        f"{once[0] / 1e6:.1f} to {once[-1] / 1e6:,.0f} MB, a factor {once[-1] / once[0]:.0f}"
    )
    titles = [f"{room} states held: {len(runs(room)[0])} runs" for room in ROOMS]
    figure = make_subplots(
        1, 3, subplot_titles=[*titles, f"T = {T:,}, B = 1, H = 128"], horizontal_spacing=0.08
    )
    for col, room in enumerate(ROOMS, 1):
        add_schedule(figure, col, room)
    figure.add_scatter(
        x=[budget / 1e6 for budget in budgets],
        y=[plan.recomputation for plan in plans],
        mode="lines",
        line={"color": BLUE, "shape": "hv"},
        showlegend=False,
        row=1,
        col=3,
    )
    ticks = [1, 10, 100, 1000]
    figure.update_xaxes(title="memory, MB", type="log", tickvals=ticks, row=1, col=3)
    figure.update_yaxes(title="extra forward passes", rangemode="tozero", row=1, col=3)
    figure.update_layout(
        template="plotly_white",
        barmode="overlay",
        bargap=0.1,
        width=1080,
        height=460,
        margin={"t": 40, "r": 20, "l": 60, "b": 100},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


if __name__ == "__main__":
    draw().write_image(Path(__file__).with_suffix(".png"), scale=2)
