"""Every figure alone: what a function returned, as a plotly figure for a notebook or a file.

>>> import bptt, torch
>>> net = bptt.Network(bptt.Categorical(5), hidden=8)
>>> figure = bptt.plots.plot_by_lag(bptt.gradient_flow(net, torch.randint(5, (30, 4))))
"""

from bptt.report.backtests import plot_coverage, plot_errors_ahead, plot_examples
from bptt.report.costs import plot_costs
from bptt.report.flow_plots import (
    plot_by_lag,
    plot_eigenvalues,
    plot_horizon,
    plot_lyapunov,
    plot_norms,
    plot_singular_values,
    plot_snapshots,
    plot_summations,
    plot_truncation,
)
from bptt.report.graphs import plot_architecture, plot_unfolded
from bptt.report.series_plots import (
    plot_confusion,
    plot_criterion,
    plot_exposure,
    plot_forecast,
    plot_learning,
    write_figure,
)

__all__ = [
    "plot_architecture",
    "plot_by_lag",
    "plot_confusion",
    "plot_costs",
    "plot_coverage",
    "plot_criterion",
    "plot_eigenvalues",
    "plot_errors_ahead",
    "plot_examples",
    "plot_exposure",
    "plot_forecast",
    "plot_horizon",
    "plot_learning",
    "plot_lyapunov",
    "plot_norms",
    "plot_singular_values",
    "plot_snapshots",
    "plot_summations",
    "plot_truncation",
    "plot_unfolded",
    "write_figure",
]
