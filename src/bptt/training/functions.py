"""What a user brings to a training: functions, of which a run notes the names."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from bptt.gradient.sequences import Penalty
from bptt.training.loss import Loss
from bptt.training.optimizers import MakeOptimizer, MakeSchedule


@dataclass(frozen=True)
class Functions:
    """An optimizer and a schedule in place of those that settings name, a loss, and a penalty."""

    optimizer: MakeOptimizer | None = None
    schedule: MakeSchedule | None = None
    loss: Loss | None = None
    penalty: Penalty | None = None

    def names(self) -> dict[str, str | None]:
        """Return what a run notes of each."""
        return {field.name: _name_of(getattr(self, field.name)) for field in fields(self)}


def _name_of(function: Any) -> str | None:
    """Return a function's name, or if it has none what it shows, such as its numbers."""
    if function is None:
        return None
    return getattr(function, "__qualname__", None) or re.sub(" at 0x[0-9a-f]+", "", repr(function))
