"""Draws docs/figures/forecasting.png: forecasts of a panel beside what came, and how far off.

40 shops sell by the day: more at the end of a week, in waves of a month or so that no calendar
knows, and half as much again on days with an offer, which are known beforehand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import polars as pl
import torch
from plotly.subplots import make_subplots

import bptt
from bptt.forecasting.backtest import Example

SHOPS, DAYS, HORIZON, ORIGINS = 40, 420, 21, 8
COLORS = {
    "network": "#2459d3",
    "the value before": "#8a8f98",
    "the season before": "#2a9d5c",
    "autoregression": "#e08a1e",
}
INTERVAL = "rgba(36, 89, 211, 0.18)"


def sales() -> pl.DataFrame:
    """Return the table."""
    random, day = np.random.default_rng(0), np.arange(DAYS)
    week = np.array([0.8, 0.8, 0.9, 1.0, 1.2, 1.5, 0.7])[(day + 3) % 7]  # it begins on a Thursday
    parts = []
    for shop in range(SHOPS):
        wave = np.zeros(DAYS)
        for t in range(1, DAYS):
            wave[t] = 0.97 * wave[t - 1] + 0.05 * random.normal()
        offer = (random.random(DAYS) < 0.15).astype(float)
        noise = np.exp(wave + 0.07 * random.normal(size=DAYS))
        sold = random.uniform(80, 120) * week * (1 + 0.5 * offer) * noise
        name = [f"shop {shop + 1}"] * DAYS
        dates = np.datetime64("2026-01-01") + day
        parts.append(pl.DataFrame({"shop": name, "day": dates, "sold": sold, "offer": offer}))
    return pl.concat(parts)


def trained(panel: bptt.Panel) -> bptt.Network:
    """Return a network that has learnt them."""
    torch.manual_seed(0)
    net = bptt.Network(panel.likelihood, inputs=panel.inputs, hidden=32, cell="gru")
    settings = bptt.Settings(max_updates=400, batch=8, learning_rate=0.01)
    bptt.fit(net, panel, settings, progress=False)
    return net


def shown(result: bptt.Backtest) -> tuple[Example, Example]:
    """Return the two forecasts that are drawn."""
    return result.examples[1], result.examples[-2]


def draw(result: bptt.Backtest) -> go.Figure:
    """Return the picture: two forecasts, and the errors."""
    first, last = shown(result)
    figure = make_subplots(
        2,
        2,
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        subplot_titles=[
            f"{first.name}, sold",
            "root mean square error, sold",
            f"{last.name}, sold",
        ],
        column_widths=[0.58, 0.42],
        vertical_spacing=0.16,
        horizontal_spacing=0.09,
    )
    ahead = np.arange(1, HORIZON + 1)
    for row, one in enumerate((first, last), 1):
        at = {"row": row, "col": 1, "mode": "lines", "showlegend": row == 1}
        past = one.before[-2 * HORIZON :, 0]
        figure.add_scatter(
            x=np.concatenate([ahead, ahead[::-1]]),
            y=np.concatenate([one.low[:, 0], one.high[::-1, 0]]),
            name=f"{result.nominal:.0%} of the paths",
            fill="toself",
            fillcolor=INTERVAL,
            line_width=0,
            **at,
        )
        figure.add_scatter(
            x=np.arange(1 - len(past), HORIZON + 1),
            y=np.concatenate([past, one.true[:, 0]]),
            name="what came",
            line={"color": "#20242c", "width": 1.5},
            **at,
        )
        mean = {"color": COLORS["network"], "width": 2.5}
        figure.add_scatter(x=ahead, y=one.mean[:, 0], line=mean, **at | {"showlegend": False})
        figure.add_vline(x=0.5, line={"dash": "dot", "color": "#4a4f59"}, row=row, col=1)
        figure.update_yaxes(rangemode="tozero", row=row, col=1)
    for method, errors in result.errors.items():
        figure.add_scatter(
            x=ahead,
            y=errors.rmse[:, 0],
            name=method,
            mode="lines+markers",
            line_color=COLORS[method],
            row=1,
            col=2,
        )
    for col in (1, 2):
        figure.update_xaxes(title="days ahead", title_standoff=8, row=2 if col == 1 else 1, col=col)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    figure.update_layout(
        template="plotly_white",
        width=980,
        height=470,
        margin={"t": 40, "r": 20, "l": 40, "b": 20},
        legend={"orientation": "h", "y": -0.16, "x": 0.5, "xanchor": "center"},
        font_size=14,
    )
    return figure


if __name__ == "__main__":
    panel = bptt.read_table(
        sales(), target="sold", time="day", series="shop", inputs="offer", calendar="weekday"
    )
    assert isinstance(panel, bptt.Panel)
    result = bptt.backtest(trained(panel), panel, HORIZON, origins=ORIGINS, seed=0)
    for row in result.rows():
        print(*row, sep="  ")
    for method, errors in result.errors.items():
        print(method, *(f"{errors.rmse[k, 0]:.1f}" for k in (0, 6, HORIZON - 1)))
    for one in shown(result):
        outside = np.flatnonzero((one.true < one.low) | (one.true > one.high)) + 1
        print(one.name, "is outside its interval on days", outside.tolist())
    draw(result).write_image(Path(__file__).with_suffix(".png"), scale=2)
