"""What changes the weights, by name or a user's, and at which rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from bptt.errors import BpttError, require_callable, require_choice, shown
from bptt.training.settings import OPTIMIZERS, OPTIONS, RATES, Settings

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]
KINDS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "radam": torch.optim.RAdam,
}
LAST_RATE = 0.1
"""What is left of the learning rate at the end of the cosine."""
PLATEAU = {"factor": 0.5, "patience": 3}
"""By what the rate is multiplied after more than so many validations without a lower loss."""


class Descent:
    """An optimizer of some parameters, and the schedule of its learning rates.

    settings: name both, where `optimizer` and `schedule` do not. total: how many updates there will
    be. optimizer: a function from the parameters to a torch optimizer, whose learning rates are its
    own and stay, unless there is a schedule too. schedule: a function from the optimizer to a torch
    scheduler, which takes a step after each update, or if it is a ReduceLROnPlateau after each
    validation.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        settings: Settings,
        total: int,
        optimizer: MakeOptimizer | None = None,
        schedule: MakeSchedule | None = None,
    ) -> None:
        for name in OPTIONS:
            if optimizer is not None and getattr(settings, name) is not None:
                raise BpttError(
                    f"{name} is given in the settings, and an optimizer of your own beside them; "
                    "expected it in that optimizer"
                )
        self.named = named_optimizer(settings) if optimizer is None else None
        self.optimizer = _made(optimizer or named_optimizer(settings), parameters)
        name = settings.schedule or ("constant" if optimizer is not None else settings.rates)
        self.total = total if schedule is None and name == "cosine" else None
        make = schedule or named_schedule(name, total)
        self.schedule = None if make is None else _scheduled(make, self.optimizer)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is changed."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def goes_by_loss(self) -> bool:
        """Whether the schedule takes its steps by the losses of validations."""
        return isinstance(self.schedule, ReduceLROnPlateau)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update, of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """Change the weights by their gradients, and the rate for the next time."""
        self.optimizer.step()
        if self.schedule is not None and not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()

    def validated(self, nll: float) -> None:
        """Change the rate by a validation's loss, if it goes by that."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(nll)

    def state(self) -> dict[str, Any]:
        """Return all that decides how it goes on."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load(self, state: Any, source: str) -> None:
        """Go on from what `state` returned, or raise BpttError if it does not fit."""
        try:
            self._require_fit(state["optimizer"], source)
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            self._follow_total()
        except BpttError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a user's class raises of another's)
            raise BpttError(
                f"{source} does not fit the optimizer of its run: {type(error).__name__}: {error}"
            ) from None

    def _follow_total(self) -> None:
        """Set the rates by the number of updates that there will be now."""
        if self.total is not None and self.schedule is not None:
            share = cosine(self.schedule.last_epoch, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share

    def _require_fit(self, state: Any, source: str) -> None:
        """Raise BpttError unless a state is of an optimizer like this."""
        groups, fresh = state["param_groups"], self.optimizer.state_dict()["param_groups"]
        if [_traits(group) for group in groups] != [_traits(group) for group in fresh]:
            raise BpttError(
                f"{source} does not fit the optimizer of its run: it has other groups of "
                "parameters, or other options"
            )
        if self.named is None:
            return
        parameters = self.parameters
        wanted = _parts_of_state(self.named)
        for index, parts in state["state"].items():
            if index not in range(len(parameters)):
                raise BpttError(
                    f"{source} has the state of parameter {index}; its run has no such parameter"
                )
            if not _is_state_of(parameters[index], parts, wanted):
                raise BpttError(
                    f"{source} does not fit the optimizer of its run, in what it has of parameter "
                    f"{index}: {', '.join(sorted(map(str, parts)))}"
                )


def named_optimizer(settings: Settings) -> MakeOptimizer:
    """Return what makes the optimizer that settings name."""
    options: dict[str, Any] = {"lr": settings.learning_rate}
    if settings.weight_decay is not None:
        options["weight_decay"] = settings.weight_decay
    if settings.momentum is not None:
        options["momentum"] = settings.momentum
    return partial(KINDS[settings.optimizer], **options)


def named_schedule(name: str, total: int) -> MakeSchedule | None:
    """Return what makes a schedule of this name; None for one that changes nothing."""
    if name == "constant":
        return None
    if name == "plateau":
        return partial(ReduceLROnPlateau, **PLATEAU)  # type: ignore[arg-type]
    return partial(LambdaLR, lr_lambda=partial(cosine, total=total))


def cosine(update: int, total: int) -> float:
    """Return the share of the learning rate at an update: a warm-up, then half a cosine to a tenth.

    It depends on how many updates there are, never on the clock, so that runs can be repeated.

    >>> [round(cosine(update, 1000), 2) for update in (0, 49, 99, 550, 999)]
    [0.01, 0.5, 1.0, 0.55, 0.1]
    """
    warm_up = min(100, total // 10 + 1)
    if update < warm_up:
        return (update + 1) / warm_up
    share = min(1.0, (update - warm_up) / max(1, total - warm_up))
    return LAST_RATE + (1 - LAST_RATE) / 2 * (1 + math.cos(math.pi * share))


def require_makers(
    settings: Settings, optimizer: object, schedule: object
) -> tuple[Settings, MakeOptimizer | None, MakeSchedule | None]:
    """Return settings, an optimizer and a schedule, of which names have gone into the settings."""
    if isinstance(optimizer, str):
        require_choice("optimizer", optimizer, OPTIMIZERS)
        settings, optimizer = replace(settings, optimizer=optimizer), None  # type: ignore[arg-type]
    if isinstance(schedule, str):
        require_choice("schedule", schedule, RATES)
        settings, schedule = replace(settings, schedule=schedule), None  # type: ignore[arg-type]
    for name, one, words in (
        ("optimizer", optimizer, "a function from parameters to a torch optimizer, or a name"),
        ("schedule", schedule, "a function from an optimizer to a torch scheduler, or a name"),
    ):
        if one is not None:
            require_callable(name, one, words)
    return settings, optimizer, schedule  # type: ignore[return-value]


def _made(make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    optimizer = make(parameters)
    if not isinstance(optimizer, Optimizer):
        raise BpttError(
            f"optimizer returned {shown(optimizer)}; expected a torch optimizer of the parameters "
            "that it was called with"
        )
    return optimizer


def _scheduled(make: MakeSchedule, optimizer: Optimizer) -> LRScheduler:
    schedule = make(optimizer)
    if not isinstance(schedule, LRScheduler) or schedule.optimizer is not optimizer:
        raise BpttError(
            f"schedule returned {shown(schedule)}; expected a torch scheduler of the optimizer "
            "that it was called with"
        )
    return schedule


def _traits(group: dict[str, Any]) -> dict[str, object]:
    """Return which options a group of parameters has, of which kinds."""
    kinds = {name: _kind(value) for name, value in group.items() if name != "params"}
    return {**kinds, "params": group["params"]}


def _kind(value: object) -> object:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return "number" if math.isfinite(value) else "no number"
    return tuple(map(_kind, value)) if isinstance(value, tuple | list) else type(value)


def _parts_of_state(make: MakeOptimizer) -> dict[str, bool]:
    """Return what an optimizer keeps of a parameter, and whether each part is as large as that."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros(2, 3)
    optimizer = make([parameter])
    optimizer.step()
    parts = optimizer.state[parameter]
    return {name: isinstance(v, Tensor) and v.shape == (2, 3) for name, v in parts.items()}


def _is_state_of(parameter: Tensor, parts: dict[str, Any], wanted: dict[str, bool]) -> bool:
    """Return whether these are what an optimizer keeps of a parameter."""
    if not isinstance(parts, dict) or parts.keys() != wanted.keys():
        return False
    for name, is_as_large in wanted.items():
        part = torch.as_tensor(parts[name]) if parts[name] is not None else parameter.new_zeros(())
        shape = parameter.shape if is_as_large else torch.Size(())
        is_alike = not is_as_large or part.dtype == parameter.dtype
        if part.shape != shape or not is_alike or not bool(part.isfinite().all()):
            return False
    return True
