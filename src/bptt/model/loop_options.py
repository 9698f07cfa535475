"""What a network has in its loop besides W, as it is asked for."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.cells.looped import Looped
from bptt.cells.registry import ELMAN
from bptt.errors import BpttError, require_whole

MOST_DELAY = 4096
NEARLY_0, NEARLY_1 = 1e-6, 1 - 1e-6
"""Between these lies a leak that is to be learned, so that σ⁻¹ of it is a number."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What a network has in its loop besides W; all of it can be combined.

    leak: α of hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(aᵗ), above 0 and at most 1, for all units; or two of
    them, from the first to the second of which the units' are spread evenly in their logarithms, so
    that they remember over about 1 / α steps each (Jaeger et al. 2007; Goodfellow et al. 2016,
    section 10.9.2). learn_leak: whether α is learned, for each unit; it then starts there.
    skips: delays d, rising, from 2 on, by which hᵗ⁻ᵈ enters aᵗ through a matrix of its own (Lin et
    al. 1996; section 10.9.1).
    norm: whether aᵗ is normalised over the units, with a learned gain and shift (Ba et al. 2016).
    dropout: the probability with which a hidden unit is left out, of all steps of a call alike (Gal
    and Ghahramani 2016); see `bptt.model.dropout`.
    """

    leak: float | tuple[float, ...] | None = None
    learn_leak: bool = False
    skips: tuple[int, ...] = ()
    norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "skips", as_delays(self.skips))
        if self.leak is not None:
            object.__setattr__(self, "leak", _checked_leak(self.leak))
        if self.learn_leak and self.leak is None:
            raise BpttError("learn_leak is given without a leak; expected where it starts, as 0.5")
        if self.learn_leak and not all(NEARLY_0 <= alpha <= NEARLY_1 for alpha in self._leaks):
            raise BpttError(
                f"a leak of {self.leak} is to be learned; expected it to start away from 0 and 1, "
                "as at 0.9"
            )
        for delay in self.skips:
            require_whole("a skip's delay", delay, 2, MOST_DELAY)
        if list(self.skips) != sorted(set(self.skips)):
            raise BpttError(f"skips are {self.skips}; expected delays that rise, such as (2, 8)")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise BpttError(f"dropout is {self.dropout}; expected a probability below 1")

    @property
    def _leaks(self) -> tuple[Any, ...]:
        if self.leak is None:
            return ()
        return self.leak if isinstance(self.leak, tuple) else (self.leak,)

    @property
    def beside_w(self) -> list[str]:
        """Which of these there are: a leak, skips, a normalisation; for tanh and relu with a W."""
        return [name for name in ("leak", "skips", "norm") if getattr(self, name)]

    @property
    def delays(self) -> tuple[int, ...]:
        """By how many steps h enters a later one: 1, by W, and the skips'."""
        return (1, *self.skips)

    def require(self, cell: str, kind: type[Cell], recurrence: str) -> None:
        """Raise BpttError unless all of this goes with the cell and the recurrence."""
        if self.beside_w and kind.f is None:
            raise BpttError(
                f'{self.beside_w[0]} is given with cell "{cell}"; expected {" or ".join(ELMAN)}: '
                "gates do what it is for"
            )
        if self.dropout and not kind.is_torchs:
            raise BpttError(
                f'dropout is given with cell "{cell}"; expected tanh, relu, gru or lstm, of which '
                "it is known what h enters by"
            )
        if self.beside_w and recurrence == "output":
            raise BpttError(
                f'{self.beside_w[0]} is given with recurrence "output"; expected "hidden" or '
                '"both", which loop over h'
            )

    def cell(self, input_size: int, hidden_size: int, kind: type[Cell]) -> Looped:
        """Return a cell of this kind, of a layer in whose loop all of this is."""
        assert kind.f is not None  # `require` has seen to it
        leak = None if self.leak is None else self.first_leak(hidden_size)
        return Looped(
            input_size,
            hidden_size,
            kind.f,
            skips=self.skips,
            leak=leak,
            learn_leak=self.learn_leak,
            norm=self.norm,
        )

    def first_leak(self, H: int) -> Float[Tensor, " H"]:
        """Return where α of each unit starts."""
        low, high = self._leaks[0], self._leaks[-1]
        return torch.linspace(math.log(low), math.log(high), H).exp().clamp(max=1)


def as_delays(delays: int | Sequence[int]) -> tuple[int, ...]:
    """Return one delay or several as a tuple, or raise BpttError."""
    several = delays if isinstance(delays, list | tuple) else (delays,)
    try:
        return tuple(operator.index(delay) for delay in several)
    except TypeError:
        raise BpttError(
            f"skips are {delays!r}; expected a whole number, or several, such as (2, 8)"
        ) from None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _checked_leak(leak: Any) -> float | tuple[float, ...]:
    """Return a leak or two as plain numbers, or raise BpttError."""
    several = tuple(leak) if isinstance(leak, list | tuple) else (leak,)
    if len(several) not in (1, 2):
        raise BpttError(f"leak is {leak}; expected one number, or two")
    for alpha in several:
        if not _is_number(alpha) or not 0 < alpha <= 1:
            raise BpttError(f"leak is {leak!r}; expected a number above 0 and at most 1")
    leaks = tuple(map(float, several))
    return leaks if len(leaks) > 1 else leaks[0]
