"""What would change how a gradient flows: remedies, with what each would do in figures."""

from __future__ import annotations

import math
from typing import NamedTuple

from bptt.errors import require_kind
from bptt.gradient.analysis.flow import GradientFlow
from bptt.model.loop_options import MOST_DELAY

TARGET_SHARE = 0.1
"""The share of a gradient's norm that a remedy is to leave over the window."""
LARGEST_TO_WIDEN = 0.95
"""A spectral radius of W's start above this is not worth scaling to 1."""
SMALLEST = 1e-6
"""A growth below this says no more than that hardly anything is left after a step."""


class Remedy(NamedTuple):
    """A remedy: its options of bptt train, and what it would change."""

    options: str
    change: str

    def __str__(self) -> str:
        return f"{self.change} ({self.options})"


def advice(flow: GradientFlow) -> list[Remedy]:
    """Return what would change a verdict: options of bptt train, and in words what they do.

    There are none for a flow that neither vanishes nor explodes over its window, or whose gates
    could keep it already. What the network has, or cannot have beside that, is not among them.

    >>> import bptt, torch
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8, cell="gru")
    >>> [remedy.options for remedy in advice(bptt.gradient_flow(net, torch.randint(5, (30, 4))))]
    []
    """
    require_kind("flow", flow, GradientFlow, "what bptt.gradient_flow returned")
    if flow.verdict == "exploding":
        return _for_exploding(flow)
    if flow.verdict != "vanishing" or flow.closed_by == "gates":
        return []
    if flow.closed_by == "output":
        change = "a loop from hidden to hidden too, on which the state can be kept"
        return [Remedy("--recurrence both", change)]
    gates = Remedy(
        f"--cell gru --chrono {max(flow.window, 3)}",
        "gates, whose biases can start such that units keep their state over up to "
        f"{flow.window:,} steps",
    )
    return [gates, *(_beside_w(flow) if flow.closed_by == "W" else [])]


def _for_exploding(flow: GradientFlow) -> list[Remedy]:
    grown = flow.window * math.log10(flow.growth)
    clip = Remedy(
        "--clip 0.1",
        "a lower clip of the gradient's norm, so that one which has grown by "
        f"10^{grown:.0f} over {flow.window:,} steps moves the weights no further than others",
    )
    radius = Remedy(
        "--radius 0.9",
        f"smaller first weights, for W {1 / flow.growth:.2g} times as large would bring the factor "
        "to 1 where the states stayed the same",
    )
    return [clip, radius] if flow.closed_by == "W" else [clip]


def _beside_w(flow: GradientFlow) -> list[Remedy]:
    """Return what keeps a gradient that W alone lets vanish."""
    window, growth = flow.window, flow.growth
    leak = 1 - TARGET_SHARE ** (1 / window)
    remedies = [
        Remedy(
            f"--leak {leak:.2g}",
            f"leaky units, which pass on 1 − {leak:.2g} of it beside W: a tenth over the window",
        )
    ]
    if not growth > SMALLEST:
        return [*remedies, Remedy("--omega 1", "Ω, which keeps its norm while W is learnt")]
    skip = math.ceil(window * math.log(growth) / math.log(TARGET_SHARE))
    if 2 <= skip < min(window, MOST_DELAY):
        remedies.append(
            Remedy(
                f"--skips {skip}",
                f"skips of {skip:,} steps, by which the window is a way of "
                f"{math.ceil(window / skip)}, and a tenth is left",
            )
        )
    change = f"Ω, which pulls the factor of {growth:.2g} towards 1 while W is learnt"
    remedies.append(Remedy("--omega 1", change))
    first = flow.first_radius
    if first is None or first < LARGEST_TO_WIDEN:
        change = (
            f"a start with a larger W, of which {1 / growth:.2g} times as much would bring the "
            "factor to 1 where the states stayed the same"
        )
        remedies.append(Remedy("--radius 1", change))
    return remedies
