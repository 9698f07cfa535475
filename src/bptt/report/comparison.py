"""A comparison as a page: its table, and how each setting learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from bptt.data.tasks.task import Task
from bptt.errors import counted
from bptt.report.measures import BITS, ERROR, RIGHT, SQUARES
from bptt.report.page import Section, write_page
from bptt.report.series_plots import draw_criterion
from bptt.report.style import BLUE, GREEN, GREY, ORANGE, RED, styled
from bptt.training.compare import Comparison, Outcome, summary
from bptt.training.runs.run import Run

MEANINGS = {
    ERROR: "RMSE is the root mean square error one step ahead on the validation part, in the units "
    "of the table.",
    BITS: "Bits per byte are the loss over how many bytes a token has, so that texts that are cut "
    "into other tokens compare.",
    RIGHT: "Right is the share of the held-out sequences whose label is told right.",
    SQUARES: "The squared error is that of the labels of the held-out sequences, in the mean.",
}
COLORS = [BLUE, RED, GREEN, ORANGE, GREY, "#8a4fbf", "#00a1a1", "#b5651d"]


def plot_comparison(what: Comparison, folder: Path, key: str = "validation_nll") -> go.Figure:
    """Return the validation losses of all runs against their steps, a colour a setting.

    key: of metrics.jsonl, what to show in their place.
    """
    figure = go.Figure()
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(what.settings)}
    shown = set[str]()
    for job in what.jobs(folder):
        rows = [row for row in Run.open(job.folder).metrics() if key in row]
        figure.add_scatter(
            x=[row["update"] for row in rows],
            y=[row[key] for row in rows],
            name=job.name,
            legendgroup=job.name,
            showlegend=job.name not in shown,
            line={"color": colors[job.name], "width": 1.5},
            hovertemplate=f"{job.name}, seed {job.seed}: %{{y:.4g}}<extra></extra>",
        )
        shown.add(job.name)
    figure.update_xaxes(title="update")
    figure.update_yaxes(title="validation loss, nats per step")
    return styled(figure, height=440, hover="closest")


def write_comparison(
    path: str | Path, what: Comparison, folder: str | Path, outcomes: Sequence[Outcome]
) -> None:
    """Write the page."""
    data = what.data or "the built-in text"
    settings, seeds = counted(len(what.settings), "setting"), counted(len(what.seeds), "seed")
    lead = [
        f"{settings} on {data}, with {seeds} each. Loss, steps "
        "and horizons are medians over the seeds; the horizon is the window that would be within "
        "5% of the exact gradient.",
        *_on_measures(outcomes),
    ]
    sections = [
        Section("What came out", "A row a setting.", table=summary(outcomes)),
        Section(
            "How they learnt",
            "A line a run; click a name to hide it.",
            plot_comparison(what, Path(folder)),
        ),
    ]
    run = Run.open(what.jobs(Path(folder))[0].folder)
    if run.kind == "task":
        task = run.read_data()
        assert isinstance(task, Task)
        figure = plot_comparison(what, Path(folder), "score")
        draw_criterion(figure, task.criterion)
        words = "What counts as success, on held-out sequences."
        sections.insert(1, Section("How near they came to solving the task", words, figure))
    write_page(path, f"{data}: {', '.join(what.settings)}", lead, sections)


def _on_measures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what the measures of these runs are."""
    measures = dict.fromkeys(one.result.measure for one in outcomes if one.result is not None)
    return [MEANINGS[measure] for measure in measures if measure in MEANINGS]
