"""What a loss may have besides the nll, to add with `bptt.fit(..., penalty=...)`.

A penalty is a function of what a call of the network returns. Any function is one; these two are
what tools for networks as models of the brain have (such as PsychRNN, Ehrlich et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from bptt.errors import BpttError, require_number, shown
from bptt.model.state import Output

if TYPE_CHECKING:
    from torch import nn

    from bptt.gradient.sequences import Penalty
    from bptt.training.settings import Settings


@dataclass(frozen=True, eq=False)
class Activity:
    """strength · mean |hᵗ|^power over the units of the top layer, at every step.

    >>> import bptt, torch
    >>> out = bptt.Network(bptt.Categorical(3), hidden=4)(torch.zeros(5, 2, dtype=torch.int64))
    >>> Activity(0.1)(out).shape  # of T = 5 steps and B = 2 sequences
    torch.Size([5, 2])
    """

    strength: float
    power: float = 2.0

    def __post_init__(self) -> None:
        _require_numbers(self.strength, self.power)

    def __call__(self, out: Output) -> Float[Tensor, "T B"]:
        """Return the penalty of each step."""
        return self.strength * out.hidden.abs().pow(self.power).mean(-1)


@dataclass(frozen=True, eq=False)
class Weights:
    """strength · Σ |w|^power over the numbers in some weights, such as [net.V].

    >>> import torch
    >>> float(Weights([torch.tensor([3.0, 4.0])], strength=0.5)(None))
    12.5
    """

    weights: Sequence[Tensor]
    strength: float
    power: float = 2.0

    def __post_init__(self) -> None:
        _require_numbers(self.strength, self.power)
        if not isinstance(self.weights, list | tuple) or not self.weights:
            raise BpttError(f"weights are {shown(self.weights)}; expected a list, such as [net.V]")
        for weight in self.weights:
            if not isinstance(weight, Tensor) or not weight.is_floating_point():
                raise BpttError(f"a weight is {shown(weight)}; expected a tensor of real numbers")

    def __repr__(self) -> str:
        """Return what a run notes of it."""
        shapes = [tuple(w.shape) for w in self.weights]
        return f"Weights({shapes}, strength={self.strength}, power={self.power})"

    def __call__(self, out: Output | None) -> Float[Tensor, ""]:
        """Return the penalty, the same at every step."""
        return self.strength * sum(w.abs().pow(self.power).sum() for w in self.weights)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Total:
    """The sum of several penalties."""

    penalties: Sequence[Penalty]

    def __call__(self, out: Output) -> Tensor:
        """Return the penalty of each step, or one number if all are the same at every step."""
        values = [penalty(out) for penalty in self.penalties]
        return sum(values[1:], values[0])


def with_settings(penalty: Penalty | None, settings: Settings, net: nn.Module) -> Penalty | None:
    """Return a penalty and those that settings have, as one; None where there is none."""
    penalties = [] if penalty is None else [penalty]
    if settings.activity_penalty > 0:
        penalties.append(Activity(settings.activity_penalty))
    if settings.weight_penalty > 0:
        matrices = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
        penalties.append(Weights(matrices, settings.weight_penalty))
    return Total(penalties) if len(penalties) > 1 else next(iter(penalties), None)


def _require_numbers(strength: object, power: object) -> None:
    for name, value in (("strength", strength), ("power", power)):
        require_number(name, value, "a positive number")
        if not float(value) > 0:  # type: ignore[arg-type]
            raise BpttError(f"{name} is {value}; expected a positive number")
