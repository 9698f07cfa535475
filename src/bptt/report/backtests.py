"""How far off forecasts were, as figures and as a page."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bptt.errors import counted, require_kind, require_path
from bptt.forecasting.backtest import BEFORE, NETWORK, Backtest
from bptt.report.page import Section, write_page
from bptt.report.series_plots import FORECAST, SPREAD, TRUE
from bptt.report.style import BLUE, GREEN, GREY, ORANGE, RED, draws, styled

COLORS = {NETWORK: BLUE, BEFORE: GREY, "the season before": GREEN, "autoregression": ORANGE}


@draws(Backtest)
def plot_errors_ahead(backtest: Backtest) -> go.Figure:
    """Return the root mean square error of each method by steps ahead: a part for each column."""
    ahead = np.arange(1, backtest.horizon + 1)
    figure = _parts(backtest)
    for k in range(len(backtest.names)):
        for method, errors in backtest.errors.items():
            trace = {"x": ahead, "y": errors.rmse[:, k], "name": method}
            figure.add_scatter(
                **trace,
                mode="lines+markers" if backtest.horizon < 30 else "lines",
                line_color=COLORS[method],
                showlegend=k == 0,
                row=k + 1,
                col=1,
            )
    figure.update_xaxes(title="steps ahead", row=len(backtest.names), col=1)
    figure.update_yaxes(title="RMSE", rangemode="tozero")
    return styled(figure, height=180 + 260 * len(backtest.names))


@draws(Backtest)
def plot_coverage(backtest: Backtest) -> go.Figure:
    """Return by steps ahead how often the truth lay within the interval."""
    ahead = np.arange(1, backtest.horizon + 1)
    figure = _parts(backtest)
    for k in range(len(backtest.names)):
        figure.add_bar(
            x=ahead,
            y=backtest.coverage[:, k],
            marker_color=BLUE,
            showlegend=False,
            row=k + 1,
            col=1,
        )
        figure.add_hline(
            backtest.nominal,
            line_dash="dash",
            line_color=RED,
            annotation_text=f"{backtest.nominal:.0%}",
            row=k + 1,
            col=1,
        )
    figure.update_xaxes(title="steps ahead", row=len(backtest.names), col=1)
    figure.update_yaxes(title="share within", range=[0, 1.05], tickformat=".0%")
    return styled(figure, height=180 + 220 * len(backtest.names))


@draws(Backtest)
def plot_examples(backtest: Backtest) -> go.Figure:
    """Return forecasts from some origins beside what came, of the first column."""
    examples = backtest.examples
    titles = [escape(one.name) if one.name else f"origin {k + 1}" for k, one in enumerate(examples)]
    rows = (len(examples) + 1) // 2
    figure = make_subplots(rows, 2, subplot_titles=titles, vertical_spacing=0.25 / rows)
    for k, one in enumerate(examples):
        at = {"row": k // 2 + 1, "col": k % 2 + 1, "showlegend": k == 0, "mode": "lines"}
        past, ahead = np.arange(1 - len(one.before), 1), np.arange(1, backtest.horizon + 1)
        figure.add_scatter(
            x=np.concatenate([past, ahead]),
            y=np.concatenate([one.before[:, 0], one.true[:, 0]]),
            name="what came",
            line_color=TRUE,
            **at,
        )
        figure.add_scatter(
            x=np.concatenate([ahead, ahead[::-1]]),
            y=np.concatenate([one.low[:, 0], one.high[::-1, 0]]),
            name=f"{backtest.nominal:.0%} of the sampled paths",
            fill="toself",
            fillcolor=SPREAD,
            line_width=0,
            hoverinfo="skip",
            **at,
        )
        figure.add_scatter(x=ahead, y=one.mean[:, 0], name="forecast", line_color=FORECAST, **at)
    return styled(figure, height=140 + 220 * rows)


def write_backtest(path: str | Path, backtest: Backtest, name: str) -> None:
    """Write a page about forecasts from many origins; name: of the run."""
    require_path("the page", path)
    require_kind("backtest", backtest, Backtest, "what bptt.backtest returns")
    lead = [sentence(backtest)]
    sections = [
        Section(
            "The errors",
            "In the table's units, over all steps ahead; MASE divides by the error of the season "
            "before within the training part, so below 1 is better than that.",
            table=backtest.rows(),
        ),
        Section(
            "The error by steps ahead",
            "Where the blue line is the lowest, the network forecasts best.",
            plot_errors_ahead(backtest),
        ),
        Section(
            "How often the truth lies within the interval",
            "Bars below the dashed line: the network is surer than it should be.",
            plot_coverage(backtest),
        ),
        Section(
            f"Some of the forecasts, of {backtest.names[0]}",
            "Each begins at 0, and has seen nothing of what comes after.",
            plot_examples(backtest),
        ),
    ]
    write_page(path, f"How far off the forecasts of {name} are", lead, sections)


def sentence(backtest: Backtest) -> str:
    """Return in words what was measured."""
    ahead = counted(backtest.horizon, "step")
    text = f"{counted(backtest.windows, 'forecast')} of {ahead} each, in what was not trained on"
    if backtest.skipped:
        text += f"; {counted(backtest.skipped, 'series')} left out, as too short to validate"
    season = f"; a season is {backtest.season} steps" if backtest.season > 1 else ""
    return f"{text}{season}."


def _parts(backtest: Backtest) -> go.Figure:
    names = list(map(escape, backtest.names))
    return make_subplots(len(names), 1, shared_xaxes=True, subplot_titles=names)
