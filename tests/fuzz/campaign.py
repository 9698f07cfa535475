"""How many random calls a fuzz test makes: a few among the tests, as many as asked for on demand.

    BPTT_FUZZ=5000 python -m pytest tests/fuzz        # "make fuzz" does this

Every test is drawn from a fixed seed, so that two runs try the same calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

CALLS = int(os.environ.get("BPTT_FUZZ", "25"))
"""Calls of a test of weight 1."""
LEAST = 5
"""Calls of any test."""


class Tally:
    """How many calls a test has made."""

    def __init__(self) -> None:
        self.calls = 0


tally = Tally()


def fuzz(weight: float = 1.0) -> Callable[[Any], Any]:
    """Return a decorator, to stand above @given, that bounds a test to weight x CALLS calls."""
    bound = settings(
        max_examples=max(LEAST, int(weight * CALLS)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Any) -> Any:
        inner = test.hypothesis.inner_test

        def counted(*args: Any, **kwargs: Any) -> Any:
            tally.calls += 1
            return inner(*args, **kwargs)

        test.hypothesis.inner_test = counted
        return bound(test)

    return decorate
