"""Random numbers that a call has drawn, and was then refused: they are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def undrawn_on_failure() -> Iterator[None]:
    """Put torch's random numbers back where they were if anything is raised inside.

    For what can check all that it was given only after it has run a network that draws.
    """
    before = torch.get_rng_state()
    try:
        yield
    except BaseException:
        torch.set_rng_state(before)
        raise
