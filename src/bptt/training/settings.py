"""How to train: the settings of `fit`, which are the options of `bptt train` too."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import NoneType
from typing import Literal

from bptt.errors import (
    BpttError,
    as_bytes,
    require_choice,
    require_flag,
    require_kind,
    require_number,
    require_whole,
    require_window,
)

DEFAULT_EPOCHS, DEFAULT_UPDATES, DEFAULT_WINDOW = 12.0, 1000, 100
FEEDBACKS = ("sample", "mean")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "radam")
WITH_MOMENTUM = ("sgd", "rmsprop")
OPTIONS = ("weight_decay", "momentum")
"""Of an optimizer, if it is not to have its usual ones."""
RATES = ("cosine", "constant", "plateau")
SCHEDULES = ("linear", "exponential", "inverse-sigmoid")
WEIGHTS = ("omega", "activity_penalty", "weight_penalty")
"""What is added to the loss, each times its weight."""
STEEPNESS = 10.0
"""k of the inverse sigmoid: the larger, the more suddenly it falls."""
LEFT_AT_THE_END = 0.01
"""What is left of the way at the end of the exponential."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. The defaults were chosen with `benchmarks/text.py --defaults`."""

    batch: int | None = None
    """How many parallel streams the data is cut into, or how many sequences of a collection are run
    side by side; by default 32, and for a table fewer if the streams would be short."""

    window: int | Literal["auto"] | None = "auto"
    """How many time steps the gradient reaches back (truncated backpropagation through time); none
    for the exact gradient of all steps of an update; auto for 100, and for tasks none."""

    stride: int | None = None
    """How many neighbouring losses share a window; by default as many as it is long. 1 lets every
    loss reach back the full window, at window / stride times the cost."""

    memory: int | str | None = None
    """How much memory a gradient may take, such as 256MB; what does not fit is computed again. By
    default it takes what it needs."""

    steps_per_update: int | None = None
    """Time steps of every stream between two updates; by default the window, and without one the
    whole stream."""

    forcing: float = 1.0
    """The probability that the true previous output is fed back, and not the network's own: 1 is
    teacher forcing, 0 closes the loop, between is scheduled sampling."""

    forcing_end: float | None = None
    """Where forcing ends up; by default where it starts."""

    forcing_schedule: Literal["linear", "exponential", "inverse-sigmoid"] = "linear"
    """How forcing gets there over the updates."""

    feedback: Literal["sample", "mean"] = "sample"
    """What the network feeds back of its own: a sample, or the mean, with its gradient."""

    epochs: float | None = None
    """How often to go through the data; by default 12, and for tables and collections so often that
    1,000 updates are made, unless max_updates says otherwise."""

    max_updates: int | None = None
    """Stop after this many updates. The learning rate's schedule ends there too."""

    max_seconds: float | None = None
    """Stop after this many seconds of training, wherever the schedule is."""

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "radam"] = "adam"
    """What changes the weights; sgd is the textbook's W ← W − α ∂L/∂W."""

    learning_rate: float = 5e-3
    """The optimizer's α at its highest."""

    schedule: Literal["cosine", "constant", "plateau"] | None = None
    """How α goes: a warm-up and then half a cosine down to a tenth, or constant, or halved where
    four validations in a row bring no lower loss; by default the cosine, and for sgd constant."""

    weight_decay: float | None = None
    """The optimizer's weight decay; by default its own."""

    momentum: float | None = None
    """Of sgd and rmsprop: how much of the last change goes into the next one."""

    clip: float = 1.0
    """The norm above which the whole gradient is scaled down to it; inf for no clipping."""

    clip_value: float | None = None
    """The size that no part of the gradient may exceed, before its norm is clipped."""

    omega: float = 0.0
    """The weight of Ω, which keeps the gradient's norm on its way back in time (tanh and relu)."""

    omega_halved_after: int | None = None
    """After how many updates n the weight of Ω is half of what it was, and a third after 2 n, and
    so on; by default it stays."""

    activity_penalty: float = 0.0
    """The weight of the mean square of the top layer's hidden units, added to a step's loss."""

    weight_penalty: float = 0.0
    """The weight of the sum of the squares in all matrices trained, added to a step's loss."""

    validate_every: int | None = None
    """Updates between two validations; by default such that they take little time."""

    keep: Literal["best", "last"] = "best"
    """Which weights the network has in the end: those of the best validation, or the last."""

    patience: int | None = None
    """Stop after so many validations in a row of which none is the best so far."""

    stop_when_solved: bool = True
    """Of a task: stop at the first validation at which it counts as solved."""

    def __post_init__(self) -> None:
        self._require_types()
        require_choice("keep", self.keep, ("best", "last"))
        whole = (("batch", 1), ("max_updates", 0), ("validate_every", 1), ("patience", 1))
        for name, least in whole:
            if getattr(self, name) is not None:
                require_whole(name, getattr(self, name), least, 2**31)
        self._require_numbers()
        if self.memory is not None:
            as_bytes("memory", self.memory)
        require_window(self.reach, self.stride)
        self._require_forcing()
        self._require_optimizer()
        if self.steps_per_update is not None:
            require_whole("steps_per_update", self.steps_per_update, 1, 2**31)
            if self.reach is not None and self.steps_per_update < self.reach:
                raise BpttError(
                    f"steps_per_update is {self.steps_per_update}; expected at least the window, "
                    f"{self.reach}: the gradient cannot reach back past the last update"
                )

    def _require_types(self) -> None:
        """Raise BpttError unless numbers are numbers."""
        for name in (*WEIGHTS, "learning_rate", "clip", "forcing"):
            require_number(name, getattr(self, name))
        for name in ("epochs", "max_seconds", "clip_value", "forcing_end", *OPTIONS):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name))
        for name in ("window", "feedback", "optimizer", "forcing_schedule", "schedule"):
            kinds = {"window": (int, str, NoneType), "schedule": (str, NoneType)}.get(name, (str,))
            require_kind(name, getattr(self, name), kinds, "a word, or of a window a number")
        require_flag("stop_when_solved", self.stop_when_solved)

    def _require_numbers(self) -> None:
        """Raise BpttError unless what is measured has a sensible size."""
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise BpttError(f"{name} is {getattr(self, name)}; expected a number of at least 0")
        if self.omega_halved_after is not None:
            require_whole("omega_halved_after", self.omega_halved_after, 1, 2**31)
            if self.omega == 0:
                raise BpttError("omega_halved_after is given without omega; expected both")
        if self.omega > 0 and self.feedback == "mean" and not self.is_forced:
            raise BpttError(
                'omega is given with means fed back; expected feedback "sample", or forcing 1: '
                "the loop through the output has no Ω"
            )
        for name in ("epochs", "max_seconds", "learning_rate", "clip", "clip_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BpttError(f"{name} is {value}; expected a number above 0")
        for name in ("learning_rate", "epochs"):
            if getattr(self, name) == math.inf:
                raise BpttError(f"{name} is inf; expected a finite number")

    def _require_optimizer(self) -> None:
        """Raise BpttError unless the optimizer is one, and has the options that are given."""
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule is not None:
            require_choice("schedule", self.schedule, RATES)
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise BpttError(f"weight_decay is {self.weight_decay}; expected a number of at least 0")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise BpttError(f"momentum is {self.momentum}; expected a number from 0 to below 1")
        if self.momentum is not None and self.optimizer not in WITH_MOMENTUM:
            raise BpttError(
                f"momentum is given with optimizer {self.optimizer}; expected "
                f"{' or '.join(WITH_MOMENTUM)}, or no momentum"
            )

    def _require_forcing(self) -> None:
        """Raise BpttError unless what is fed back makes sense."""
        require_choice("feedback", self.feedback, FEEDBACKS)
        require_choice("forcing_schedule", self.forcing_schedule, SCHEDULES)
        for name in ("forcing", "forcing_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise BpttError(f"{name} is {value}; expected a probability from 0 to 1")
        if self.is_forced and self.feedback != "sample":
            raise BpttError(
                f'feedback is "{self.feedback}" with forcing 1; expected forcing below 1, or '
                "nothing of the network's own is fed back"
            )
        if self.forcing_end is None and self.forcing_schedule != "linear":
            raise BpttError(
                f'forcing_schedule is "{self.forcing_schedule}" without a forcing_end; expected '
                "both"
            )
        if not self.is_forced and self.stride not in (None, self.reach):
            raise BpttError(
                f"stride is {self.stride} with forcing below 1; expected none, or the window: "
                "windows that overlap would each draw other values for the same step"
            )

    @property
    def rates(self) -> str:
        """The name of the schedule: of the textbook's descent, unless told, a constant rate."""
        return self.schedule or ("constant" if self.optimizer == "sgd" else "cosine")

    @property
    def reach(self) -> int | None:
        """The window, as a number of steps or None for all."""
        return DEFAULT_WINDOW if self.window == "auto" else self.window

    def resolved(self, default_window: int | None) -> Settings:
        """Return the settings with a window of data whose default this is."""
        return replace(self, window=default_window) if self.window == "auto" else self

    @property
    def is_forced(self) -> bool:
        """Whether the true values are always fed back."""
        return self.forcing == 1 and self.forcing_end in (None, 1)

    def forcing_at(self, share: float) -> float:
        """Return the probability of forcing when this share of training, from 0 to 1, is done.

        Bengio et al. 2015, section 2.4, with i scaled to the length of training: linear;
        exponential, kⁱ; inverse sigmoid, k / (k + exp(i / k)), half way down in the middle.

        >>> [Settings(forcing_end=0.2).forcing_at(share) for share in (0, 0.25, 1)]
        [1.0, 0.8, 0.2]
        """
        left: dict[str, float] = {
            "linear": 1 - share,
            "exponential": LEFT_AT_THE_END**share,
            "inverse-sigmoid": STEEPNESS / (STEEPNESS + STEEPNESS ** (2 * share)),
        }
        end = self.forcing if self.forcing_end is None else self.forcing_end
        return end + (self.forcing - end) * left[self.forcing_schedule]

    def omega_at(self, update: int) -> float:
        """Return the weight of Ω at an update."""
        return self.omega / (1 + update / (self.omega_halved_after or math.inf))

    @property
    def steps(self) -> int | None:
        """Time steps of every stream in one update, at most; None for all that there are."""
        return self.steps_per_update or self.reach
