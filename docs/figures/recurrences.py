"""Draws docs/figures/recurrences.png: what each recurrence learns, and how long a step takes.

Left and middle: the loss of every training step, mean of three seeds. Right: the time of a training
step against T, for one sequence. Tasks, training and timing are those of benchmarks/parity.py.
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from parity import LENGTHS, RECURRENCES, SEEDS, TASKS, TIMED, WIDTHS, Task, times, train

COLORS = dict(zip(RECURRENCES, ("#d3242c", "#2a9d5c", "#2459d3"), strict=True))
NAMES = {"hidden": "hidden (RNN 1)", "output": "output (RNN 2)", "both": "both"}
SHOWN = 400  # training steps


def add_curves(figure: go.Figure, task: Task, col: int) -> None:
    """Train on a task with each recurrence, and draw the losses."""
    for recurrence in RECURRENCES:
        curves = [train(task, recurrence, seed).curve for seed in SEEDS]
        figure.add_scatter(
            x=list(range(1, SHOWN + 1)),
            y=[statistics.mean(step) for step in zip(*curves, strict=True)][:SHOWN],
            name=NAMES[recurrence],
            line={"color": COLORS[recurrence], "dash": "dash" if recurrence == "both" else "solid"},
            showlegend=col == 1,
            row=1,
            col=col,
        )
    chance = {"text": "chance, log 2", "x": 1, "xanchor": "right", "y": math.log(2)}
    figure.add_hline(
        y=math.log(2),
        line={"color": "black", "dash": "dot", "width": 1},
        annotation={**chance, "yanchor": "bottom"},
        row=1,
        col=col,
    )
    figure.update_xaxes(title="training step", row=1, col=col)
    figure.update_yaxes(range=[0, 0.85], row=1, col=col)


def add_times(figure: go.Figure) -> None:
    """Time the training steps, and print and draw the medians."""
    for hidden, symbol, dash in zip(
        WIDTHS, ("circle-open", "circle"), ("dot", "solid"), strict=True
    ):
        found = [times(T, hidden) for T in LENGTHS]
        for name in TIMED:
            ms = [1000 * statistics.median(some[name]) for some in found]
            print(f"H = {hidden}, {name}:", [round(value, 2) for value in ms], "ms at", LENGTHS)
            figure.add_scatter(
                x=LENGTHS,
                y=ms,
                mode="lines+markers",
                line={"color": COLORS[name], "dash": dash},
                marker={"symbol": symbol, "size": 7},
                showlegend=False,
                row=1,
                col=3,
            )
            figure.add_annotation(
                x=math.log10(LENGTHS[-1]),
                y=math.log10(ms[-1]),
                text=f"H = {hidden}",
                font={"color": COLORS[name]},
                showarrow=False,
                xanchor="left",
                xshift=6,
                row=1,
                col=3,
            )
    ticks = {"tickvals": LENGTHS, "ticktext": [f"{T:,}" for T in LENGTHS]}
    figure.update_xaxes(title="T, steps", type="log", range=[1.1, 5], **ticks, row=1, col=3)
    figure.update_yaxes(title="milliseconds", type="log", dtick=1, row=1, col=3)


def main() -> None:
    """Train, time, print and draw."""
    titles = [*(task.name for task in TASKS), "time of a training step, B = 1"]
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.08)
    for col, task in enumerate(TASKS, 1):
        add_curves(figure, task, col)
    figure.update_yaxes(title="nats per step", row=1, col=1)
    add_times(figure)
    figure.update_layout(
        template="plotly_white",
        width=1080,
        height=400,
        margin={"t": 40, "r": 20, "b": 90},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
