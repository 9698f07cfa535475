"""What is measured of a network besides its loss."""

from __future__ import annotations

from typing import NamedTuple


class Criterion(NamedTuple):
    """When a task counts as solved: when `measure` is below `solved`.

    measure: "squared error" (mean, over dimensions too), "wrong" (the share of answers) or "nats"
    (per scored step). baseline: of it, what a network without memory reaches at best.
    """

    measure: str
    solved: float
    baseline: float
