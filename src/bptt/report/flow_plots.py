"""How a gradient flows, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from bptt.gradient.analysis.dynamics import Jacobians, Lyapunov
from bptt.gradient.analysis.flow import GradientFlow
from bptt.gradient.analysis.snapshot import Snapshot
from bptt.gradient.analysis.spectrum import Spectrum
from bptt.report.style import BLUE, GREEN, GREY, ORANGE, RED, draws, styled
from bptt.training.diagnosis import Truncated

MOST_CELLS = 250
"""Steps and lags of the map of norms; of more, several are shown as one."""
DECADES = 12
"""How far below its largest value a gradient is shown."""


@draws(GradientFlow)
def plot_norms(flow: GradientFlow) -> go.Figure:
    """Return ‖∂Lⱼ/∂hₖ‖ for every loss step j and lag j − k, as a map of colours."""
    counts = np.flatnonzero((flow.norms > 0).any(axis=1))
    first = int(counts[0]) if len(counts) else 0  # those before only bring up the state
    T, count = flow.norms.shape
    steps, lags = (
        np.arange(start, stop, math.ceil((stop - start) / MOST_CELLS))
        for start, stop in ((first, T), (0, count))
    )
    shown = flow.norms[steps][:, lags]
    logs = np.log10(np.where(shown > 0, shown, np.nan))
    top = np.nanmax(logs) if np.isfinite(logs).any() else 0.0
    figure = go.Figure(
        go.Heatmap(
            x=lags,
            y=steps + 1,
            z=np.where(logs < top - DECADES, top - DECADES, logs).astype(np.float32),
            colorscale="Viridis",
            colorbar={"title": "log₁₀", "thickness": 14},
            hovertemplate="loss at step %{y}<br>%{x} steps back<br>10^%{z:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="lag j − k, steps back from the loss")
    figure.update_yaxes(title="step j of the loss")
    return styled(figure, height=420, hover="closest")


@draws(GradientFlow)
def plot_by_lag(flow: GradientFlow) -> go.Figure:
    """Return the gradient's norm against the lag, with the slope that was fitted."""
    lag, figure = np.arange(flow.max_lag + 1), go.Figure()
    for values, name, color in (
        (flow.typical_by_lag, "typical (geometric mean)", BLUE),
        (flow.by_lag, "root mean square, in which large ones count more", GREEN),
    ):
        shown = np.where(values > 0, values, np.nan)
        figure.add_scatter(x=lag, y=shown, name=name, line_color=color)
    start = flow.typical_by_lag[0]
    if math.isfinite(flow.growth) and flow.growth > 0 and start > 0:
        line = start * flow.growth**lag
        near = line > start * 10.0**-DECADES
        figure.add_scatter(
            x=lag[near],
            y=line[near],
            name=f"{flow.growth:.3g} a step",
            line={"color": RED, "dash": "dot"},
        )
    figure.update_xaxes(title="lag j − k, steps back from the loss")
    both = np.concatenate([flow.typical_by_lag, flow.by_lag])
    figure.update_yaxes(title="‖∂Lⱼ/∂hₖ‖", **_log_range(both[both > 0]))
    return styled(figure)


@draws(GradientFlow)
def plot_summations(flow: GradientFlow) -> go.Figure:
    """Return the two summations of ∂L/∂W: what each loss adds, and what each use of W adds."""
    step, figure = np.arange(1, flow.T + 1), go.Figure()
    for values, name, color in (
        (flow.by_loss, "by loss: Σ over all uses before it", BLUE),
        (flow.by_use, "by use of W: Σ over all losses after it", ORANGE),
    ):
        figure.add_scatter(x=step, y=values, name=name, line_color=color)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="norm of its part of ∂L/∂W", rangemode="tozero")
    return styled(figure)


@draws(GradientFlow, Sequence)
def plot_truncation(flow: GradientFlow, others: Sequence[Truncated] = ()) -> go.Figure:
    """Return what a gradient truncated to each window lacks, and how far its direction turns.

    others: windows with their strides, as they were measured.
    """
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    window = np.arange(1, len(flow.truncation_error))
    lines: tuple[tuple[Float[np.ndarray, " p"], str, str, int], ...] = (
        (flow.truncation_error, "error, every loss reaching back the window", BLUE, 1),
        (flow.cosine, "cosine to the exact gradient", GREEN, 2),
    )
    for values, name, color, row in lines:
        figure.add_scatter(x=window, y=values[1:], name=name, line_color=color, row=row, col=1)
    if others:
        figure.add_scatter(
            x=[one.window for one in others],
            y=[one.error for one in others],
            text=[f"window {one.window}, stride {one.stride}" for one in others],
            hovertemplate="%{text}: %{y:.2%} off<extra></extra>",
            name="as measured, with a stride",
            mode="markers",
            marker={"color": ORANGE, "size": 9, "symbol": "diamond"},
            row=1,
            col=1,
        )
    if flow.window <= window[-1]:
        figure.add_vline(x=flow.window, line={"color": GREY, "dash": "dash"})
        figure.add_annotation(
            x=flow.window, y=1, yref="y domain", text="trained", showarrow=False, xanchor="right"
        )
    figure.add_hline(y=0.05, line={"color": RED, "dash": "dot"}, row=1, col=1)
    positive = flow.truncation_error[1:][flow.truncation_error[1:] > 0]
    figure.update_yaxes(title="error", row=1, col=1, **_log_range(positive, floor=1e-6))
    figure.update_yaxes(title="cosine", row=2, col=1)
    figure.update_xaxes(title="window p, steps", row=2, col=1)
    return styled(figure, height=460)


@draws(Jacobians)
def plot_singular_values(jacobians: Jacobians) -> go.Figure:
    """Return the largest and middle singular values, and the spectral radius, over time."""
    values = np.asarray(jacobians.singular_values)[:, 0]
    figure = go.Figure()
    steps = np.asarray(jacobians.steps)
    for row, name, color in (
        (values[:, 0], "largest singular value", RED),
        (np.asarray(jacobians.spectral_radius)[:, 0], "spectral radius", BLUE),
        (np.median(values, 1), "middle singular value", GREEN),
    ):
        figure.add_scatter(x=steps, y=row, name=name, line_color=color)
    figure.add_hline(y=1, line={"color": GREY, "dash": "dash"})
    figure.update_xaxes(title="step m")
    figure.update_yaxes(title="of ∂hₘ/∂hₘ₋₁", rangemode="tozero")
    return styled(figure)


@draws(Spectrum | Jacobians)
def plot_eigenvalues(spectrum: Spectrum | Jacobians) -> go.Figure:
    """Return the eigenvalues of W, or of ∂hₘ/∂hₘ₋₁ in the middle of a run, by the unit circle."""
    angle, figure = np.linspace(0, 2 * np.pi, 181), go.Figure()
    figure.add_scatter(
        x=np.cos(angle), y=np.sin(angle), name="|λ| = 1", line_color=GREY, hoverinfo="skip"
    )
    values, name = np.asarray(spectrum.eigenvalues), "eigenvalues of W"
    if isinstance(spectrum, Jacobians):
        middle = len(values) // 2
        values = values[middle, 0]
        name = f"eigenvalues of ∂hₘ/∂hₘ₋₁ at step {spectrum.steps[middle]}"
    figure.add_scatter(
        x=values.real,
        y=values.imag,
        text=[f"|λ| = {abs(value):.3f}" for value in values],
        hovertemplate="%{text}<extra></extra>",
        name=name,
        mode="markers",
        marker={"color": BLUE, "size": 6},
    )
    figure.update_xaxes(title="real part", constrain="domain")
    figure.update_yaxes(title="imaginary part", scaleanchor="x")
    return styled(figure, height=440, hover="closest")


@draws(Lyapunov)
def plot_lyapunov(lyapunov: Lyapunov) -> go.Figure:
    """Return the Lyapunov exponents, the largest first."""
    values = np.asarray(lyapunov.exponents)
    figure = go.Figure(
        go.Scatter(
            x=np.arange(1, len(values) + 1),
            y=values,
            mode="lines+markers",
            marker_size=5,
            line_color=BLUE,
            name="exponents",
        )
    )
    figure.add_hline(y=0, line={"color": GREY, "dash": "dash"})
    figure.update_xaxes(title="number i")
    figure.update_yaxes(title="λᵢ, nats a step")
    return styled(figure)


@draws(Sequence)
def plot_horizon(snapshots: Sequence[Snapshot]) -> go.Figure:
    """Return how the horizon and the growth changed while the network was trained."""
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    updates = [one.update for one in snapshots]
    for row, values, name, color in (
        (1, [one.horizon for one in snapshots], "horizon, steps", BLUE),
        (2, [one.growth for one in snapshots], "growth a step", RED),
    ):
        figure.add_scatter(
            x=updates, y=values, name=name, mode="lines+markers", line_color=color, row=row, col=1
        )
        figure.update_yaxes(title=name, row=row, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="update", row=2, col=1)
    return styled(figure, height=440)


@draws(Sequence)
def plot_snapshots(snapshots: Sequence[Snapshot]) -> go.Figure:
    """Return the gradient's norm by lag, of that at lag 0, at every update that was looked at."""
    count = max((len(one.by_lag) for one in snapshots), default=1)
    lags = np.arange(0, count, math.ceil(count / MOST_CELLS))
    norms = np.full((count, len(snapshots)), np.nan)
    for k, one in enumerate(snapshots):
        norms[: len(one.by_lag), k] = one.by_lag
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(norms / norms[0])[lags]
    logs[~np.isfinite(logs)] = np.nan
    figure = go.Figure(
        go.Heatmap(
            x=[one.update for one in snapshots],
            y=lags,
            z=np.maximum(logs, -DECADES).astype(np.float32),
            colorscale="Viridis",
            colorbar={"title": "log₁₀", "thickness": 14},
            hovertemplate="update %{x}<br>%{y} steps back<br>10^%{z:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="update")
    figure.update_yaxes(title="lag, steps back from the loss")
    return styled(figure, hover="closest")


def _log_range(values: Float[np.ndarray, " n"], floor: float = 0.0) -> dict[str, object]:
    """Return a logarithmic axis that shows at most DECADES."""
    axis: dict[str, object] = {"type": "log", "exponentformat": "power"}
    if len(values):
        high = float(values.max())
        low = max(float(values.min()), high * 10.0**-DECADES, floor)
        axis["range"] = [math.log10(low) - 0.1, math.log10(high) + 0.1]
    return axis
