"""Draws docs/figures/teacher_forcing.png and docs/figures/exposure.png.

Teacher forcing: the schedules, and what scheduled sampling does to the excess loss of free runs of
text. Exposure: the errors of free runs of the Lorenz system, and a forced and a free trajectory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import bptt
from bptt.training.settings import SCHEDULES

HERE = Path(__file__).parent
RED, GREEN, BLUE, GREY = "#d3242c", "#2a9d5c", "#2459d3", "#4a4f59"
WAYS: dict[str, dict[str, object]] = {
    "teacher forcing": {},
    "samples, 1 to 0.75": {"forcing_end": 0.75},
    "means, 1 to 0.75": {"forcing_end": 0.75, "feedback": "mean"},
}
COLORS = dict(zip(WAYS, (RED, GREEN, BLUE), strict=True))
FREE = dict(zip(WAYS, ("", ", trained on samples", ", on means"), strict=True))
STEPS, STARTS, NOISE = 30, 400, 0.05


def lorenz(T: int, step: float = 0.08, inner: int = 16) -> np.ndarray:
    """Return T steps of the Lorenz system (Lorenz 1963), (T, 3), standardised, with noise added."""
    state, rows = np.array([1.0, 1.0, 20.0]), []
    for _ in range(T + 100):
        for _ in range(inner):  # Euler's method, in small steps
            x, y, z = state
            change = np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
            state = state + step / inner * change
        rows.append(state)
    path = np.array(rows[100:])
    noise = np.random.default_rng(0).normal(size=path.shape)
    noisy: np.ndarray = ((path - path.mean(0)) / path.std(0) + NOISE * noise).astype(np.float32)
    return noisy


def train(data: bptt.Dataset, steps: int, **settings: object) -> bptt.Network:
    """Return a network trained on the data."""
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, hidden=64)
    usual: dict[str, object] = {"batch": 16, "window": 50, "learning_rate": 5e-3}
    bptt.fit(net, data, bptt.Settings(max_updates=steps, **{**usual, **settings}))  # type: ignore[arg-type]
    return net


def on_lorenz() -> dict[str, bptt.Exposure]:
    """Return the exposure of a network trained each way, feeding means back at the test."""
    path = lorenz(20_000)
    training, test = path[:16_000], torch.from_numpy(path[16_000:]).unsqueeze(1)
    pieces = list(training.reshape(-1, 100, 3))
    data = bptt.Collection.of(pieces)
    nets = {name: train(data, 2500, **how) for name, how in WAYS.items()}
    ways = {"steps": STEPS, "starts": STARTS, "feedback": "mean"}
    return {name: bptt.exposure(net, test, **ways) for name, net in nets.items()}  # type: ignore[arg-type]


def on_text() -> dict[str, bptt.Exposure]:
    """Return the exposure of networks trained on text, of samples."""
    text = bptt.read_text()
    y = text.validation[:40_000].long().view(8, 5000).t()
    found = {}
    for name, how in WAYS.items():
        net = train(text, 1500, **{"batch": 32, "window": 100, **how})
        found[name] = bptt.exposure(net, y, steps=STEPS, starts=100)
    return found


def draw_forcing(text: dict[str, bptt.Exposure]) -> go.Figure:
    """Return the picture of the schedules and of what they do to free runs of text."""
    titles = ("probability of forcing", "excess loss of a free run, nats per character")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    share = np.linspace(0, 1, 101)
    for schedule, color in zip(SCHEDULES[1:], (BLUE, GREEN, RED), strict=True):
        settings = bptt.Settings(forcing_end=0.0, forcing_schedule=schedule)  # type: ignore[arg-type]
        values = [settings.forcing_at(float(s)) for s in share]
        figure.add_scatter(x=share, y=values, name=schedule, line_color=color, row=1, col=1)
    second: dict[str, object] = {"legend": "legend2", "row": 1, "col": 2}
    for name, found in text.items():
        half = 1.96 * found.spread / np.sqrt(found.starts)
        steps = np.arange(len(half))
        figure.add_scatter(
            x=np.concatenate([steps, steps[::-1]]),
            y=np.concatenate([found.excess - half, (found.excess + half)[::-1]]),
            fill="toself",
            fillcolor=COLORS[name],
            opacity=0.2,
            line_width=0,
            showlegend=False,
            **second,
        )
        figure.add_scatter(x=steps, y=found.excess, name=name, line_color=COLORS[name], **second)
    figure.update_xaxes(title="share of training done", row=1, col=1)
    figure.update_xaxes(title="steps since the last true character", row=1, col=2)
    return styled(figure)


def draw_exposure(lorenz: dict[str, bptt.Exposure]) -> go.Figure:
    """Return the picture of the errors of free runs, and of a forced and a free trajectory."""
    titles = ("root mean square error, Lorenz system", "one start: z, forced and free")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    one = lorenz["teacher forcing"]
    figure.add_scatter(
        y=one.forced_error, name="forced", line={"color": GREY, "dash": "dot"}, row=1, col=1
    )
    for name, found in lorenz.items():
        figure.add_scatter(
            y=found.free_error, name="free" + FREE[name], line_color=COLORS[name], row=1, col=1
        )
    for name, run, color in (
        ("true", one.true, GREY),
        ("one step ahead", one.forced_run, BLUE),
        ("free", one.free_run, RED),
    ):
        assert run is not None
        figure.add_scatter(
            y=run[:, 0, 2], name=name, line_color=color, legend="legend2", row=1, col=2
        )
    for col in (1, 2):
        figure.update_xaxes(title="steps since the last true value", row=1, col=col)
    return styled(figure)


def styled(figure: go.Figure) -> go.Figure:
    """Return a figure of two panels in the style of the others."""
    return figure.update_layout(
        template="plotly_white",
        width=1000,
        height=400,
        margin={"t": 40, "r": 20, "l": 50, "b": 110},
        legend={"orientation": "h", "y": -0.25, "x": 0},
        legend2={"orientation": "h", "y": -0.25, "x": 0.62},
    )


if __name__ == "__main__":
    lorenzes, texts = on_lorenz(), on_text()
    for name, found in lorenzes.items():
        assert found.free_error is not None
        print(f"Lorenz, {name}: error after 0, 5, 10, 20 steps:", found.free_error[[0, 5, 10, 20]])
    for name, found in texts.items():
        print(f"text, {name}: {found.forced.mean():.3f} nats per character forced;", end=" ")
        print("excess after 1, 5, 30 steps:", found.excess[[1, 5, 30]])
    draw_forcing(texts).write_image(HERE / "teacher_forcing.png", scale=2)
    draw_exposure(lorenzes).write_image(HERE / "exposure.png", scale=2)
