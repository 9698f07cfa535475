"""A diagnosis in words: what becomes of the gradient, what a window costs, and what to do."""

from __future__ import annotations

import math

from bptt.errors import counted
from bptt.gradient.analysis.flow import NO_PATH, GradientFlow
from bptt.report.advice import Remedy, advice
from bptt.training.diagnosis import Diagnosis, Truncated

TOLERANCE = 0.05
STEADY = 0.002
"""A growth that is within this of 1 is called steady."""
NEARER, NEGLIGIBLE = 0.6, 0.01
"""Another window is advised if its error is below this part of the trained one's, and that is
above the second."""


def headline(diagnosis: Diagnosis) -> list[str]:
    """Return the answer, a paragraph each: the flow, the window, and what to do."""
    flow = diagnosis.flow
    if flow is None:
        return [f"{diagnosis.name}: nothing was measured of its gradient."]
    if flow.verdict == NO_PATH:
        return _no_path(flow)
    paragraphs = [" ".join([*_growth(flow, diagnosis.unit), *_over_the_window(diagnosis, flow)])]
    if words := _windows(diagnosis, flow):
        paragraphs.append(" ".join(words))
    return [*paragraphs, _what_to_do(diagnosis, flow)]


def summary(flow: GradientFlow) -> str:
    """Return what becomes of a gradient on its way back, without what to do about it."""
    if flow.verdict == NO_PATH:
        return _no_path(flow)[0]
    return " ".join([*_growth(flow, "step"), *_over_the_window(Diagnosis(flow=flow), flow)])


def _no_path(flow: GradientFlow) -> list[str]:
    if flow.T == 1:
        return ["The sequences have one step each: there is no time for a gradient to go back in."]
    return [
        "No gradient flows through time: the true output is fed back at every step, so that each "
        "step learns by itself. A window of 1 is exact, and training needs no loop over time.",
        "What it cannot learn this way is what lies more than one output back; a recurrence from "
        "hidden to hidden can (--recurrence hidden or both).",
    ]


def _growth(flow: GradientFlow, unit: str) -> list[str]:
    growth, (low, high) = flow.growth, flow.growth_interval
    if not math.isfinite(growth):
        return [f"Of the gradient nothing could be followed back beyond one {unit}."]
    interval = f" (95% interval {low:.3g} to {high:.3g})" if math.isfinite(low) else ""
    if abs(growth - 1) < STEADY:
        return [
            f"A typical gradient keeps its size on its way back in time: {growth:.4g} a {unit}"
            f"{interval}."
        ]
    tenfold = math.ceil(math.log(10) / abs(math.log(growth))) if growth > 0 else 1
    if growth < 1:
        return [
            f"A typical gradient shrinks by a factor {growth:.3g} with every {unit} that it goes "
            f"back in time{interval}: {counted(tenfold, unit)} back a tenth of it is left."
        ]
    return [
        f"A typical gradient grows by a factor {growth:.3g} with every {unit} that it goes back in "
        f"time{interval}: {counted(tenfold, unit)} back it is ten times as large."
    ]


def _over_the_window(diagnosis: Diagnosis, flow: GradientFlow) -> list[str]:
    over = f"Over the {counted(flow.window, diagnosis.unit)} "
    over += "that you train with" if diagnosis.trained is not None else "that were looked at"
    verdict = {
        "vanishing": "it vanishes: what lies that far back teaches the network next to nothing.",
        "exploding": "it explodes: the far past drowns what is near.",
        "stable": "it neither vanishes (below a hundredth) nor explodes (above a hundredfold), as "
        "far as can be said for sure.",
    }[flow.verdict]
    return [f"{over} {verdict}".replace("  ", " ")]


def _windows(diagnosis: Diagnosis, flow: GradientFlow) -> list[str]:
    words, unit, trained = [], diagnosis.unit, diagnosis.trained
    horizon = flow.horizon(TOLERANCE)
    if horizon is None:
        words.append(
            f"A window of {counted(flow.max_lag + 1, unit)} is too short to come within 5% of the "
            "exact gradient."
        )
    else:
        words.append(
            f"If every loss reached {counted(horizon, unit)} back, and no further, the gradient "
            "would be within 5% of the exact one."
        )
    if trained is not None and trained.window < flow.T:
        why = ""
        if trained.stride == trained.window:
            why = f": the first losses of a chunk can reach back only a few {unit}s"
        words.append(f"As you train, in {_way(trained)}, it is {_percent(trained.error)} off{why}.")
    others = [one for one in diagnosis.others if trained is None or one[:2] != trained[:2]]
    words += [
        f"{_way(one).capitalize()} would be {_percent(one.error)} off{_price(one, trained)}."
        for one in others
    ]
    return words


def _what_to_do(diagnosis: Diagnosis, flow: GradientFlow) -> str:
    if flow.verdict == "exploding":
        return f"What helps is a lower learning rate; {_listed(advice(flow))}."
    words, trained = [], diagnosis.trained
    if trained is not None and (better := _better(trained, diagnosis.others)) is not None:
        words.append(
            f"What helps: {_way(better)} (--window {better.window} --stride {better.stride} "
            f"--steps-per-update {max(trained.window, 2 * better.window)})."
        )
    if flow.verdict == "vanishing":
        words.append(
            "To learn from further back a longer window does not help, since there is no gradient "
            "left to come from there."
        )
        words.append(
            f"What would keep it: {_listed(named)}."
            if (named := advice(flow))
            else "The gates have not learnt to keep anything for so long, be it that nothing was "
            "worth it."
        )
    return " ".join(words) or (
        "Nothing needs to be done: the window that you train with keeps what there is to keep."
    )


def _listed(named: list[Remedy]) -> str:
    *most, last = map(str, named)
    return "; ".join([*most, f"or {last}" if most else last])


def _better(trained: Truncated, others: tuple[Truncated, ...]) -> Truncated | None:
    """Return a window that is clearly nearer to the exact gradient than the trained one."""
    nearer = [one for one in others if one.error < NEARER * trained.error]
    wrong = trained.error > NEGLIGIBLE
    return min(nearer, key=lambda one: one.error, default=None) if wrong else None


def _way(one: Truncated) -> str:
    if one.stride == one.window:
        return f"chunks of {one.window:,}"
    if 2 * one.stride == one.window:
        return f"windows of {one.window:,} that overlap by half"
    return f"windows of {one.window:,} with stride {one.stride:,}"


def _price(one: Truncated, trained: Truncated | None) -> str:
    """Return what a window costs, or saves: windows that overlap cost time, short chunks none."""
    if one.stride < one.window:
        return f", at {one.window / one.stride:.2g} times the work"
    if trained is None or not trained.memory or not one.memory:
        return ""
    ratio = one.memory / trained.memory
    return f", in {ratio:.0%} of the memory" if ratio < 0.9 else ""


def _percent(share: float) -> str:
    if share < 0.001:
        return "less than 0.1%"
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
