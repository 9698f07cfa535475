"""A diagnosis as a page: the answer in words first, then the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bptt.errors import BpttError, require_path
from bptt.gradient.analysis.flow import GradientFlow
from bptt.gradient.analysis.watch import Watch
from bptt.model.architecture import Architecture
from bptt.report import flow_plots as draw
from bptt.report.graphs import plot_architecture, plot_unfolded
from bptt.report.page import Section, write_page
from bptt.report.series_plots import (
    plot_confusion,
    plot_criterion,
    plot_exposure,
    plot_learning,
)
from bptt.report.words import headline, summary
from bptt.training.diagnosis import Diagnosis


def write_report(path: str | Path, diagnosis: Diagnosis | GradientFlow | Watch) -> None:
    """Write a diagnosis as one HTML file, which opens without a network.

    Of a Watch each layer has its part, and what could not be seen is named.

    >>> import bptt, tempfile, torch
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> flow = bptt.gradient_flow(net, torch.randint(5, (30, 4)))
    >>> write_report(Path(tempfile.mkdtemp()) / "report.html", flow)
    """
    require_path("the report", path)
    if isinstance(diagnosis, Watch):
        _write_watched(path, diagnosis)
        return
    if isinstance(diagnosis, GradientFlow):
        diagnosis = Diagnosis(flow=diagnosis)
    if not isinstance(diagnosis, Diagnosis):
        raise BpttError(
            f"the report got a {type(diagnosis).__name__}; expected a Diagnosis, a GradientFlow "
            "or a Watch"
        )
    title = f"How far back the gradient of {diagnosis.name} reaches"
    write_page(path, title, headline(diagnosis), _sections(diagnosis))


def _sections(diagnosis: Diagnosis) -> list[Section]:
    return [
        *_reach(diagnosis),
        *_stability(diagnosis),
        *_training(diagnosis),
        *_architecture(diagnosis),
    ]


def _write_watched(path: str | Path, watch: Watch) -> None:
    """Write the page of a model whose layers were watched, or raise BpttError if none was seen."""
    lead = [f"{name} was not seen: {reason}" for name, reason in watch.unseen.items()]
    sections: list[Section] = []
    if not watch and not lead:
        raise BpttError(
            "no gradient reached a recurrent layer while it was watched; expected a forward pass "
            "of the model and loss.backward() inside the with block"
        )
    for name, flow in watch.items():
        over_time = watch.history[name] if len(watch.history[name]) > 1 else ()
        layer = Diagnosis(name=name, flow=flow, snapshots=tuple(over_time))
        lead.append(f"{name}: {summary(flow)}")
        sections += [
            replace(section, title=f"{name}: {section.title[0].lower()}{section.title[1:]}")
            for section in _sections(layer)
        ]
    name = type(watch.model).__name__
    write_page(path, f"How far back the gradient of a {name} reaches", lead, sections)


def _reach(diagnosis: Diagnosis) -> list[Section]:
    flow = diagnosis.flow
    if flow is None:
        return []
    windows = [*([diagnosis.trained] if diagnosis.trained else []), *diagnosis.others]
    return [
        Section(
            "The gradient by lag",
            "How much of a loss's gradient is left after so many steps back; a straight line is "
            "the same factor at every step, and the dotted one is what was fitted.",
            draw.plot_by_lag(flow),
        ),
        Section(
            "What a window costs",
            "Find your window on the axis: the blue line is how far off the gradient would be if "
            "every loss reached that far back; below the dotted line it is within 5%.",
            draw.plot_truncation(flow, windows),
        ),
        Section(
            "The gradient by step and lag",
            "Each row is one loss, and to the right it goes back in time; bright is large. Dark "
            "streaks are steps through which little gets back.",
            draw.plot_norms(flow),
        ),
        Section(
            "The two summations",
            "Blue is what the loss of a step adds to ∂L/∂W, orange what the use of W at a step "
            "adds; peaks are the steps from which, and at which, most is learnt.",
            draw.plot_summations(flow),
        ),
    ]


def _stability(diagnosis: Diagnosis) -> list[Section]:
    sections = []
    if diagnosis.jacobians is not None:
        sections.append(
            Section(
                "One step of the Jacobian",
                "What a step can do to the gradient at the most (red) and to the middle direction "
                "(green); above 1 it grows there, below it shrinks.",
                draw.plot_singular_values(diagnosis.jacobians),
            )
        )
    if diagnosis.spectrum is not None:
        sections.append(
            Section(
                "Eigenvalues of W",
                "W applied n times multiplies each eigenvector by λⁿ: outside the circle it grows, "
                f"inside it fades. {diagnosis.spectrum.verdict}",
                draw.plot_eigenvalues(diagnosis.spectrum),
            )
        )
    elif diagnosis.jacobians is not None:
        sections.append(
            Section(
                "Eigenvalues of a step",
                "Of the Jacobian in the middle of the run: a direction outside the circle would "
                "grow, if all steps were like this one; one inside fades.",
                draw.plot_eigenvalues(diagnosis.jacobians),
            )
        )
    if diagnosis.lyapunov is not None:
        sections.append(
            Section(
                "Lyapunov exponents",
                "By how many nats a step the gradient grows in each direction, along the run "
                "itself: above 0 the network is chaotic, far below 0 it forgets.",
                draw.plot_lyapunov(diagnosis.lyapunov),
            )
        )
    return sections


def _training(diagnosis: Diagnosis) -> list[Section]:
    sections = []
    if diagnosis.metrics:
        sections.append(
            Section(
                "How it learnt",
                f"The loss on the data that it trains on, and on what was held out, in nats per "
                f"{diagnosis.loss_unit}; a gap that widens is overfitting.",
                plot_learning(diagnosis.metrics),
            )
        )
    if diagnosis.criterion is not None and any("score" in row for row in diagnosis.metrics):
        sections.append(
            Section(
                "How near it is to what is asked",
                "What counts as success, on held-out sequences, beside what is reached without "
                "looking at them.",
                plot_criterion(diagnosis.metrics, diagnosis.criterion),
            )
        )
    if diagnosis.confusion is not None:
        right = diagnosis.confusion.trace() / max(1, diagnosis.confusion.sum())
        sections.append(
            Section(
                "What it takes for what",
                f"{right:.1%} of the held-out sequences are told right. A row is what they are, a "
                "column what they are told to be.",
                plot_confusion(diagnosis.confusion, diagnosis.classes),
            )
        )
    if diagnosis.snapshots:
        sections.append(
            Section(
                "How the horizon grew",
                "The window that would be within 5% of the exact gradient, and the growth a step, "
                "while it was trained.",
                draw.plot_horizon(diagnosis.snapshots),
            )
        )
    if len(diagnosis.snapshots) > 1:
        sections.append(
            Section(
                "The gradient by lag, while it was trained",
                "Each column is an update, and upwards it goes back in time; bright is large. The "
                "norms are those of the first picture, each divided by that of lag 0.",
                draw.plot_snapshots(diagnosis.snapshots),
            )
        )
    if diagnosis.exposure is not None:
        sections.append(
            Section(
                "What teacher forcing costs",
                "How much worse the network predicts the truth when the last k outputs that it "
                "read were its own; of symbols, part of it is that it had gone another way.",
                plot_exposure(diagnosis.exposure),
            )
        )
    return sections


def _architecture(diagnosis: Diagnosis) -> list[Section]:
    if diagnosis.architecture is None:
        return []
    each = [("as it runs freely", diagnosis.architecture)]
    if diagnosis.architecture != diagnosis.architecture.teacher_forced():
        each.append(("under teacher forcing", diagnosis.architecture.teacher_forced()))
    heads = ("", "recurrent depth", "feedforward depth", "skip coefficient", "parallel in time")
    rows: list[tuple[str, ...]] = [heads, *((name, *_depths(one)) for name, one in each)]
    return [
        Section(
            "The architecture",
            "Solid edges act within a step, dashed ones reach a later one. Depth is the number of "
            "edges that a step in time, or the way from input to output, takes (Zhang et al. "
            "2016).",
            plot_architecture(diagnosis.architecture),
            rows,
        ),
        Section(
            "The same, unfolded in time",
            "Every way from left to right is a way for the gradient to come back.",
            plot_unfolded(diagnosis.architecture),
        ),
    ]


def _depths(one: Architecture) -> tuple[str, ...]:
    skip = one.recurrent_skip_coefficient
    return (
        str(one.recurrent_depth),
        str(one.feedforward_depth),
        "none" if skip is None else str(skip),
        "yes" if one.parallel_in_time else "no",
    )
