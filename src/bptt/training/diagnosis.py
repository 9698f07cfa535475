"""All that can be said of how a network learns through time, measured on data of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bptt.data.batches import Dataset
from bptt.data.criterion import Criterion
from bptt.data.sequences.labels import Labelled
from bptt.errors import BpttError, require_kind, require_whole, require_window
from bptt.gradient.analysis.dynamics import Jacobians, Lyapunov, jacobians, lyapunov_exponents
from bptt.gradient.analysis.flow import GradientFlow, gradient_flow
from bptt.gradient.analysis.snapshot import Snapshot
from bptt.gradient.analysis.spectrum import Spectrum, spectrum
from bptt.gradient.exact.backward import backward
from bptt.gradient.exact.plan import plan
from bptt.model.architecture import Architecture
from bptt.model.hidden import parts
from bptt.model.network import Network
from bptt.training.exposure import Exposure, exposure
from bptt.training.runs.run import Run
from bptt.training.sample import Sample, held_out
from bptt.training.snapshots import read_snapshots

SEQUENCES = 16
LEAST_STEPS, MOST_STEPS = 200, 400
"""How many steps of each sequence are looked at, unless told: about twice the trained window."""
FREE_STEPS, FREE_STARTS = 50, 20
MOST_JACOBIANS = 64 << 20
"""Bytes for the Jacobians of 64 steps of one sequence; larger ones are left out of a diagnosis."""
MOST_EXPONENTS = 64
MOST_STATE = 4096
"""Numbers of a state beyond which its Lyapunov exponents would take minutes: left out, too."""


class Truncated(NamedTuple):
    """A window and a stride to train with: how far the gradient is off, and what it takes.

    error: ‖truncated − exact‖ / ‖exact‖, over all trained parameters of the network. memory: what
    one window takes, in bytes, for the sequences that were looked at.
    """

    window: int
    stride: int
    error: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was measured. Every part may be missing: a report shows what there is.

    name: of what was looked at. unit: what a step is called; loss_unit: what has a loss. trained:
    the window that it is trained with; others: windows that might do. snapshots: the flow at
    earlier updates.
    criterion: when the task that it is trained on counts as solved, or what is measured of labels.
    classes, confusion: of labels, how many held-out sequences of each were told to be of each.
    """

    name: str = "a network"
    unit: str = "step"
    loss_unit: str = "step"
    flow: GradientFlow | None = None
    trained: Truncated | None = None
    others: tuple[Truncated, ...] = ()
    jacobians: Jacobians | None = None
    spectrum: Spectrum | None = None
    lyapunov: Lyapunov | None = None
    exposure: Exposure | None = None
    metrics: tuple[dict[str, float], ...] = ()
    criterion: Criterion | None = None
    classes: tuple[str, ...] = ()
    confusion: Int[np.ndarray, "classes classes"] | None = None
    snapshots: tuple[Snapshot, ...] = ()
    architecture: Architecture | None = None


def diagnose_run(
    run: str | Path | Run,
    data: str | Path | None = None,
    *,
    steps: int | None = None,
    sequences: int | None = None,
    max_lag: int | None = None,
    last: bool = False,
) -> Diagnosis:
    """Look at a trained run, on the part of its data that it was not trained on.

    data: where its data is now, if it was moved. steps, sequences: how much of it to look at; by
    default twice the window, from 200 to 400 steps, of 16 sequences, if there is so much; if more
    steps are asked for than 16 sequences have, of fewer. last: at the last weights, and not at
    those whose validation was the best.
    """
    for name, value in (("steps", steps), ("sequences", sequences), ("max_lag", max_lag)):
        if value is not None:
            require_whole(name, value, 1)
    run = run if isinstance(run, Run) else Run.open(run)
    dataset, settings = run.read_data(data), run.settings()
    window = settings.reach
    net = run.network(last=last)
    usual = max(LEAST_STEPS, min(2 * (window or 0), MOST_STEPS), 3 * (window or 0) // 2)
    count = sequences or SEQUENCES
    sample = held_out(dataset.validation_batches(count), steps or usual, count)
    while sequences is None and count > 1 and len(sample.y) < (steps or 1):
        count //= 2  # fewer streams are longer
        sample = held_out(dataset.validation_batches(count), steps or usual, count)
    _require_so_much("steps", steps, len(sample.y), run)
    _require_so_much("sequences", sequences, sample.y.shape[1], run)
    if steps is not None and len(sample.y) > steps:
        raise BpttError(
            f"steps is {steps}; expected at least {len(sample.y)}, by which each of the sequences "
            "that are looked at has had a loss"
        )
    sample = sample.of(net)
    if sample.lengths is not None and window is not None:
        window = min(window, len(sample.y))  # longer than any sequence
    if max_lag is None and sample.loss_weights is not None:
        max_lag = min(len(sample.y) - 1, usual)  # of long sequences that are whole
    seen = diagnose(net, sample, window=window, stride=settings.stride, max_lag=max_lag)
    return replace(
        seen,
        name=run.path.resolve().name,
        unit=run.unit,
        loss_unit=run.loss_unit,
        metrics=tuple(run.metrics()),
        snapshots=tuple(read_snapshots(run)),
        criterion=dataset.criterion,
        **_confusion(dataset, net),
    )


def _confusion(data: Dataset, net: Network) -> dict[str, Any]:
    """Return which classes there are, and how often one was told for another, where there are."""
    if not isinstance(data, Labelled) or not data.classes:
        return {}
    return {"classes": data.classes, "confusion": data.confusion(net)}


def _require_so_much(what: str, asked: int | None, available: int, run: Run) -> None:
    """Raise BpttError if more was asked for than there is to look at."""
    if asked is not None and asked > available:
        raise BpttError(
            f"{what} is {asked}; expected at most {available}: the part of the data that "
            f"{run.path} was not trained on has no more, side by side"
        )


def diagnose(
    net: Network,
    sample: Sample,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_lag: int | None = None,
) -> Diagnosis:
    """Look at a network's gradient flow, Jacobians, exponents and free run.

    window, stride: with which it is trained; None for the exact gradient. max_lag: as in
    `bptt.gradient_flow`.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> diagnosis = diagnose(net, Sample(torch.randint(5, (60, 4))), window=20)
    >>> diagnosis.trained.window, diagnosis.flow.T
    (20, 60)
    """
    if window is not None:
        require_window(window, stride)
    elif stride is not None:
        require_whole("stride", stride, 1)
    require_kind("sample", sample, Sample, "bptt.Sample(y, x)")
    y, x, lengths, weights = sample
    flow = gradient_flow(
        net, y, x=x, window=window, max_lag=max_lag, lengths=lengths, loss_weights=weights
    )
    size = sum(part.numel() for part in parts(net.recurrent.zero_state(1)))
    is_plain = net.f is not None and not net.loop.beside_w
    whole = lengths is None and flow.T > FREE_STEPS + 1
    loops = flow.has_path and whole
    fits = 64 * size * size * y.element_size() < MOST_JACOBIANS
    one = Sample(y[:, :1], None if x is None else x[:, :1])
    trained, others = _windows(net, sample, flow, window, stride)
    return Diagnosis(
        flow=flow,
        trained=trained,
        others=others,
        jacobians=jacobians(net, one.y, x=one.x) if loops and fits else None,
        spectrum=spectrum(net) if flow.has_path and is_plain else None,
        lyapunov=(
            lyapunov_exponents(net, y, x=x, count=min(MOST_EXPONENTS, size))
            if loops and size <= MOST_STATE
            else None
        ),
        exposure=(
            exposure(net, y, x=x, steps=FREE_STEPS, starts=FREE_STARTS)
            if whole and net.feedback_weight(x) is not None
            else None
        ),
        architecture=net.architecture,
    )


def _windows(
    net: Network, sample: Sample, flow: GradientFlow, window: int | None, stride: int | None
) -> tuple[Truncated | None, tuple[Truncated, ...]]:
    """Return what the trained window costs, and others: as long as the horizon, and twice that."""
    net = copy.deepcopy(net).eval()
    options: dict[str, Any] = {"lengths": sample.lengths, "loss_weights": sample.loss_weights}

    def gradient(**cut: Any) -> Tensor:
        net.zero_grad()
        backward(net, sample.y, x=sample.x, **options, **cut)
        grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        return torch.cat(grads)

    exact = gradient()

    def truncated(window: int, stride: int) -> Truncated:
        off = gradient(window=window, stride=stride) - exact
        planned = plan(net, window, sample.y.shape[1])
        return Truncated(window, stride, float(off.norm() / exact.norm()), planned.memory or 0)

    trained = None if window is None else truncated(window, stride or window)
    horizon = flow.horizon()
    if horizon is None or not flow.has_path:
        return trained, ()
    pairs = [(horizon, horizon), (2 * horizon, horizon)]
    return trained, tuple(truncated(*pair) for pair in pairs if pair[0] < flow.T)
