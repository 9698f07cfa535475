"""An Elman cell with more in its loop: skips through time, a leak, layer normalisation."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Activation, Cell
from bptt.cells.registry import ELMAN
from bptt.errors import BpttError, require_whole
from bptt.kernel.plain_loop import State, Step

NORM_EPSILON = 1e-5
"""What layer normalisation adds to σ², as torch's does."""
MOST_DELAY = 4096
NEARLY_0, NEARLY_1 = 1e-6, 1 - 1e-6
"""Between these lies a leak that is to be learned, so that σ⁻¹ of it is a number."""


class Loop(NamedTuple):
    """What a tanh or relu layer has in its loop besides W, which is (H, K H) for K delays.

    delays: rising from 1 on. leak: α, (H). gain, shift: of layer normalisation, (H). None: none.
    The state is then hᵗ, hᵗ⁻¹, …, as many parts as the farthest delay.
    """

    delays: tuple[int, ...] = (1,)
    leak: Float[Tensor, " H"] | None = None
    gain: Float[Tensor, " H"] | None = None
    shift: Float[Tensor, " H"] | None = None


def looped(W: Float[Tensor, "H KH"], f: Activation, loop: Loop) -> Step:
    """Return the step of an Elman layer with more in its loop; the state is hᵗ, hᵗ⁻¹, ….

    Delays: aᵗ = pᵗ + Σ_d W_d hᵗ⁻ᵈ (Lin et al. 1996; Goodfellow et al. 2016, section 10.9.1).
    Layer normalisation over the units: ã = gain ⊙ (a − μ) / σ + shift (Ba et al. 2016, equation 4).
    Leak: hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(ã) (Jaeger et al. 2007; Goodfellow et al., section 10.9.2).
    """

    def step(p: Float[Tensor, "B H"], state: State) -> State:
        met = torch.cat([state[d - 1] for d in loop.delays], dim=1)
        a = torch.addmm(p, met, W.t())
        if loop.gain is not None:
            a = torch.nn.functional.layer_norm(a, a.shape[1:], loop.gain, loop.shift, NORM_EPSILON)
        h = f(a) if loop.leak is None else torch.lerp(state[0], f(a), loop.leak)
        return h, *state[:-1]

    return step


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


class Looped(Cell):
    """hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(norm(b + U xᵗ + Σ_d W_d hᵗ⁻ᵈ)), or what of it is asked for.

    Its state is hᵗ, or with skips the last hᵗ, hᵗ⁻¹, …, as many as the farthest delay. Parameters:
    weight_hh, weight_skip4 for a delay of 4, leak (σ⁻¹ of α, if that is learned), gain, shift.
    """

    closed_by = "more"
    is_torchs = True

    def __init__(self, input_size: int, hidden_size: int, f: Activation, loop: LoopOptions) -> None:
        self.f, self.loop = f, loop  # type: ignore[misc]
        super().__init__(input_size, hidden_size, states=self.loop.delays[-1])
        self.weight_hh = self.matrix(hidden_size, hidden_size)
        for delay in self.loop.skips:
            self.register_parameter(f"weight_skip{delay}", self.matrix(hidden_size, hidden_size))
        if self.loop.leak is not None:
            alpha = self.loop.first_leak(hidden_size)
            if self.loop.learn_leak:
                self.leak = nn.Parameter(torch.logit(alpha))
            else:
                self.register_buffer("leak", alpha)
        if self.loop.norm:
            self.gain = nn.Parameter(torch.ones(hidden_size))
            self.shift = nn.Parameter(torch.zeros(hidden_size))

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        usual = LoopOptions()
        pairs = ((name, getattr(self.loop, name)) for name in vars(usual))
        more = "".join(f", {k}={value}" for k, value in pairs if value != getattr(usual, k))
        return f"{self.input_size}, {self.hidden_size}{more}"

    @property
    def remembers_h_alone(self) -> bool:
        """Whether all parts of the state are h: they are hᵗ, hᵗ⁻¹, …."""
        return True

    def step(self, p: Float[Tensor, "B H"], *state: Float[Tensor, "B H"]) -> State:
        """Return hᵗ, hᵗ⁻¹, …."""
        loop = self.loop
        leak = getattr(self, "leak", None)
        if leak is not None and loop.learn_leak:
            leak = torch.sigmoid(leak)
        names = ["weight_hh", *(f"weight_skip{delay}" for delay in loop.skips)]
        weights = [getattr(self, name) for name in names]
        W = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
        norm = (self.gain, self.shift) if loop.norm else (None, None)
        assert self.f is not None
        return looped(W, self.f, Loop(loop.delays, leak, *norm))(p, state)
