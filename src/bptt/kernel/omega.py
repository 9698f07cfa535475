"""Ω, which keeps the gradient's norm from step to step, as the backward loop reads it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from bptt.errors import BpttError


@dataclass
class OmegaTerm:
    """What Ω is to weigh in a backward pass, for each sequence, and what it came to; see remedies.

    value: Σ Ω over the backward passes until now.
    """

    weight: float
    value: float = 0.0


def refuse_second_derivative() -> NoReturn:
    """Raise BpttError where Ω is asked for in a gradient that is to be differentiated, or a batch.

    Its gradient is the immediate one, in which the backward pass counts as constant.
    """
    raise BpttError(
        "omega is given in a backward pass with create_graph=True or a batch of gradients; "
        "expected one loss and first derivatives: Ω's gradient takes the backward pass as constant"
    )
