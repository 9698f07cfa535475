"""How to train: the settings of `fit`, which are the options of `bptt train` too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bptt.errors import BpttError, as_bytes, require_choice, require_whole, require_window

DEFAULT_EPOCHS = 12.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. The defaults were chosen with `benchmarks/text.py --defaults`."""

    batch: int = 32
    """How many parallel streams the text is cut into."""

    window: int | None = 100
    """How many time steps the gradient reaches back (truncated backpropagation through time); none
    for the exact gradient of all steps of an update."""

    stride: int | None = None
    """How many neighbouring losses share a window; by default as many as it is long. 1 lets every
    loss reach back the full window, at window / stride times the cost."""

    memory: int | str | None = None
    """How much memory a gradient may take, such as 256MB; what does not fit is computed again. By
    default it takes what it needs."""

    steps_per_update: int | None = None
    """Time steps of every stream between two optimizer steps; by default the window, and without
    one the whole stream."""

    epochs: float | None = None
    """How often to go through the data; by default 12, unless max_steps says otherwise."""

    max_steps: int | None = None
    """Stop after this many optimizer steps. The learning rate's schedule ends there too."""

    max_seconds: float | None = None
    """Stop after this many seconds of training, wherever the schedule is."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """adam, or sgd: the textbook's W ← W − α ∂L/∂W."""

    learning_rate: float = 5e-3
    """The optimizer's α at its highest, after the warm-up."""

    clip: float = 1.0
    """The norm above which the whole gradient is scaled down to it; inf for no clipping."""

    validate_every: int | None = None
    """Optimizer steps between two validations; by default such that they take little time."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("max_steps", 0), ("validate_every", 1)):
            if getattr(self, name) is not None:
                require_whole(name, getattr(self, name), least, 2**31)
        for name in ("epochs", "max_seconds", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BpttError(f"{name} is {value}; expected a number above 0")
        for name in ("learning_rate", "epochs"):
            if getattr(self, name) == math.inf:
                raise BpttError(f"{name} is inf; expected a finite number")
        if self.memory is not None:
            as_bytes("memory", self.memory)
        require_window(self.window, self.stride)
        require_choice("optimizer", self.optimizer, ("adam", "sgd"))
        if self.steps_per_update is not None:
            require_whole("steps_per_update", self.steps_per_update, 1, 2**31)
            if self.window is not None and self.steps_per_update < self.window:
                raise BpttError(
                    f"steps_per_update is {self.steps_per_update}; expected at least the window, "
                    f"{self.window}: the gradient cannot reach back past the last update"
                )

    @property
    def steps(self) -> int | None:
        """Time steps of every stream in one update, at most; None for all that there are."""
        return self.steps_per_update or self.window
