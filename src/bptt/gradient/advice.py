"""What would change how a gradient flows: remedies, with what each would do in figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bptt.gradient.flow import GradientFlow

KEPT = 0.1
"""How much of a gradient a remedy is to leave over the window."""
SMALLEST = 1e-6
"""A growth below this says no more than that hardly anything is left after a step."""


class Remedy(NamedTuple):
    """A remedy: its options of bptt train, and what it would change."""

    options: str
    change: str

    def __str__(self) -> str:
        return f"{self.change} ({self.options})"


def remedies(flow: GradientFlow) -> list[Remedy]:
    """Return the remedies for a flow that vanishes or explodes over its window; none for others.

    Gates are the remedy for vanishing themselves.
    """
    if flow.verdict == "exploding":
        return _for_exploding(flow)
    if flow.verdict == "vanishing" and not flow.gated:
        return _for_vanishing(flow)
    return []


def _for_exploding(flow: GradientFlow) -> list[Remedy]:
    grown = flow.window * math.log10(flow.growth)
    return [
        Remedy(
            "--clip 1",
            "a norm that is clipped before the update, which a gradient that has grown by "
            f"10^{grown:.0f} over {flow.window:,} steps would else decide alone",
        ),
        Remedy(
            "--radius 0.9",
            f"smaller first weights, for W {1 / flow.growth:.2g} times as large would bring the "
            "factor to 1 where the states stayed the same",
        ),
    ]


def _for_vanishing(flow: GradientFlow) -> list[Remedy]:
    window, growth = flow.window, max(flow.growth if flow.growth > 0 else 0.0, SMALLEST)
    leak = 1 - KEPT ** (1 / window)
    skip = math.ceil(window * math.log(growth) / math.log(KEPT))
    found = [
        Remedy(
            f"--cell lstm --chrono {max(window, 3)}",
            f"gates, whose biases can start such that units keep their state over up to {window:,} "
            "steps",
        ),
        Remedy(
            f"--leak {leak:.2g}",
            f"leaky units, which pass on 1 − {leak:.2g} of it beside W: a tenth over the window",
        ),
    ]
    if 2 <= skip < window:
        found.append(
            Remedy(
                f"--skips {skip}",
                f"skips of {skip:,} steps, by which the window is a way of "
                f"{math.ceil(window / skip)}, and a tenth is left",
            )
        )
    found += [
        Remedy(
            "--omega 1", f"Ω, which pulls the factor of {growth:.2g} towards 1 while W is learnt"
        ),
        Remedy(
            "--radius 1",
            f"a start with a larger W, of which {1 / growth:.2g} times as much would bring the "
            "factor to 1 where the states stayed the same",
        ),
    ]
    return found
