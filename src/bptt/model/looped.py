"""A tanh or relu layer with more in its loop: skips through time, a leak, layer normalisation."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.looped import Loop, looped_recipe
from bptt.cells.registry import CELLS
from bptt.errors import BpttError, require_whole
from bptt.kernel.ops import Recipe
from bptt.model.layers import ELMAN, Recurrent

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

    def require(self, cell: str, recurrence: str) -> None:
        """Raise BpttError unless all of this goes with the cell and the recurrence."""
        if self.beside_w and CELLS[cell].f is None:
            raise BpttError(
                f'{self.beside_w[0]} is given with cell "{cell}"; expected {" or ".join(ELMAN)}: '
                "gates do what it is for"
            )
        if self.beside_w and recurrence == "output":
            raise BpttError(
                f'{self.beside_w[0]} is given with recurrence "output"; expected "hidden" or '
                '"both", which loop over h'
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
    found = tuple(map(float, several))
    return found if len(found) > 1 else found[0]


class LoopedRNN(Recurrent):
    """hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(norm(b + U xᵗ + Σ_d W_d hᵗ⁻ᵈ)), or what of it is asked for.

    Its state is hᵗ, or with skips the last hᵗ, hᵗ⁻¹, …, as many as the farthest delay. Parameters
    besides torch.nn.RNN's: weight_skip4_l0 for a delay of 4, leak_l0 (σ⁻¹ of α), gain_l0, shift_l0.
    """

    closed_by = "more"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, cell: str, options: LoopOptions
    ) -> None:
        super().__init__(CELLS[cell].mode, input_size, hidden_size, num_layers)
        self.activation, self.options = cell, options
        self.states = options.delays[-1]
        for suffix in (f"_l{k}" for k in range(num_layers)):
            self._add_parts(suffix, hidden_size)

    def _add_parts(self, suffix: str, H: int) -> None:
        options = self.options
        for delay in options.skips:
            weight = nn.Parameter(torch.empty(H, H))
            self.register_parameter(f"weight_skip{delay}{suffix}", weight)
            nn.init.uniform_(weight, -(H**-0.5), H**-0.5)
        if options.leak is not None:
            alpha = options.first_leak(H)
            if options.learn_leak:
                self.register_parameter(f"leak{suffix}", nn.Parameter(torch.logit(alpha)))
            else:
                self.register_buffer(f"leak{suffix}", alpha)
        if options.norm:
            self.register_parameter(f"gain{suffix}", nn.Parameter(torch.ones(H)))
            self.register_parameter(f"shift{suffix}", nn.Parameter(torch.zeros(H)))

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        usual = LoopOptions()
        pairs = ((name, getattr(self.options, name)) for name in vars(usual))
        more = "".join(f", {k}={value}" for k, value in pairs if value != getattr(usual, k))
        return f"{super().extra_repr()}{more}"

    def loop(self, suffix: str) -> Loop:
        """Return a layer's delays, α, gain and shift."""
        leak = self.part("leak", suffix)
        if leak is not None and self.options.learn_leak:
            leak = torch.sigmoid(leak)
        return Loop(
            self.options.delays, leak, self.part("gain", suffix), self.part("shift", suffix)
        )

    def weights(self, suffix: str) -> Float[Tensor, "H KH"]:
        """Return W and the skips' matrices, side by side."""
        names = ["weight_hh", *(f"weight_skip{delay}" for delay in self.options.skips)]
        all_ = [self.part(name, suffix) for name in names]
        return all_[0] if len(all_) == 1 else torch.cat(all_, dim=1)

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes a layer's step, whose state is hᵗ, hᵗ⁻¹, …."""
        f = CELLS[self.activation].f
        assert f is not None  # LoopOptions.require has seen to it
        return looped_recipe(f, self.weights(suffix), self.loop(suffix))

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: A002 (torch's name)
        """Return every hᵗ of the top layer, (T, B, H), and the last state, of every layer."""
        every, last = self.run(input, self.zero_state(input.shape[1]) if hx is None else hx)
        return every[-1], last
