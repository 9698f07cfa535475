"""What training tells of itself: after each update, at its end, and to a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from bptt.errors import BpttError, require_whole
from bptt.training.runs.run import Run

MOST_UPDATES = 2**53
"""Beyond which a float cannot tell one update from the next."""


@dataclass(frozen=True)
class Update:
    """What `on_update` is told after each update; losses are in nats per step.

    number: which update it is, from 1; total: the number at which training ends; train_nll: of
    this update's tokens; validation_nll, score: None unless this update ended with a validation,
    the score a task's or that of labels; seconds: of training so far; gradient_norm: before it was
    clipped; learning_rate: of this update. net: the network, as this update has left it; run: None
    if nothing is saved.
    """

    number: int
    total: int
    train_nll: float
    validation_nll: float | None
    seconds: float
    tokens_per_second: float
    gradient_norm: float
    learning_rate: float
    net: nn.Module
    optimizer: torch.optim.Optimizer
    run: Run | None = None
    score: float | None = None


OnUpdate = Callable[[Update], None]


@dataclass(frozen=True)
class Fit:
    """What `fit` returns: where training ended, why, and how good the network then was.

    best_update: after which update the network was as it is left: the best validated, or the last.
    validation_nll: its loss then; None where there is nothing to validate on. score: of a task
    or of labels, what is measured of it on the held-out sequences.
    """

    updates: int
    seconds: float
    validation_nll: float | None
    stopped_by: Literal["updates", "seconds", "solved", "patience"]
    run: Run | None
    score: float | None = None
    best_update: int = 0


@dataclass
class Progress:
    """What, besides weights and the optimizer's state, decides how training goes on.

    seed: of all that is drawn while training; each update draws from its own, seed + update.
    best: after which update the validation was the best so far, by the score of a task and else by
    the loss; best_nll, best_score: what they then were. worse: how many validations came since.
    """

    update: int = 0
    seconds: float = 0.0
    nll_sum: float = 0.0
    nll_count: int = 0
    seed: int = 0
    best: int = 0
    best_nll: float | None = None
    best_score: float | None = None
    worse: int = 0

    def compare(self, nll: float, score: float | None, *, by_score: bool) -> bool:
        """Take a validation down, and return whether it is the best so far."""
        is_score = by_score and score is not None
        before, now = (self.best_score, score) if is_score else (self.best_nll, nll)
        assert now is not None
        if before is not None and now >= before:
            self.worse += 1
            return False
        self.best, self.best_nll, self.best_score, self.worse = self.update, nll, score, 0
        return True

    def require(self, source: str) -> None:
        """Raise BpttError unless training could have come so far."""
        for name in ("update", "nll_count", "seed", "best", "worse"):
            require_whole(f"{source}: {name}", getattr(self, name), 0, MOST_UPDATES)
        for name in ("best_nll", "best_score"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise BpttError(f"{source}: {name} is no finite number; expected one, or null")
        if not math.isfinite(self.seconds + self.nll_sum) or self.seconds < 0:
            raise BpttError(
                f"{source}: seconds are {self.seconds} and nll_sum is {self.nll_sum}; expected "
                "finite numbers, the first at least 0"
            )
