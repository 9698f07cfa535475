"""What goes into a network and what comes out: its state, its output, and a call's data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_choice, require_shape
from bptt.model.layers import Hidden

FEEDBACKS = ("sample", "mean")


class State(NamedTuple):
    """What a network carries from one step to the next; every part may be left out, meaning zero.

    hidden: (layers, B, H), or a pair (h, c) of these for an LSTM; None where nothing loops over h.
    y: the last true y, (B,) for symbols, (B, d) for numbers.
    own: what the network itself said last, where it was not forced: a sample, like y, or with
    feedback "mean" the mean, (B, Y). It is fed back at the next step if that is not forced either.
    """

    hidden: Hidden = None
    y: Tensor | None = None
    own: Tensor | None = None


class Output(NamedTuple):
    """What a call of a network returns.

    nll: (T, B), −log p(yᵗ | oᵗ) in nats, 0 beyond a sequence's end; None without y.
    outputs: oᵗ, (T, B, O), and hidden: the top layer's hᵗ, (T, B, H), of no meaning beyond it.
    state: each sequence's at its own end.
    """

    nll: Float[Tensor, "T B"] | None
    outputs: Float[Tensor, "T B O"]
    hidden: Float[Tensor, "T B H"]
    state: State


class Regime(NamedTuple):
    """How sequences are run: where they end and restart, and what is fed back."""

    lengths: Int[Tensor, " B"] | None = None
    resets: Bool[Tensor, "T B"] | None = None
    forcing: float | Bool[Tensor, "T B"] = 1.0
    feedback: str = "sample"

    def part(self, start: int, stop: int) -> Regime:
        """Return the regime of the steps from start to stop − 1."""
        return Regime(
            None if self.lengths is None else (self.lengths - start).clamp(0, stop - start),
            None if self.resets is None else self.resets[start:stop],
            self.forcing[start:stop] if isinstance(self.forcing, Tensor) else self.forcing,
            self.feedback,
        )

    @property
    def is_forced(self) -> bool:
        """Whether the true values are always fed back."""
        return not isinstance(self.forcing, Tensor) and self.forcing == 1

    def options(self) -> dict[str, Any]:
        """Return what is not as usual, as keyword arguments."""
        usual = Regime()
        pairs = zip(self._fields, self, usual, strict=True)
        return {name: mine for name, mine, its in pairs if isinstance(mine, Tensor) or mine != its}


class Given(NamedTuple):
    """What a call was given, checked.

    y0 and own0: the true y⁰ and the network's own; y: true values; x: inputs.
    alive: (T, B), which steps lie within their sequences, None where all do.
    resets: (T, B), before which steps the state is zeroed.
    forced: (T, B), where the true yᵗ⁻¹ enters and not the network's own; None where it always does.
    """

    T: int
    B: int
    hidden: Hidden
    y0: Shaped[Tensor, "B *y"]
    own0: Tensor
    y: Shaped[Tensor, "T B *y"] | None = None
    x: Shaped[Tensor, "T B *x"] | None = None
    alive: Bool[Tensor, "T B"] | None = None
    resets: Bool[Tensor, "T B"] | None = None
    forced: Bool[Tensor, "T B"] | None = None

    def previous(self, blank: Tensor) -> Shaped[Tensor, "T B *y"]:
        """Return the true yᵗ⁻¹ of every step, `blank` after a reset and where there is none."""
        first = self.y0.unsqueeze(0)
        if self.y is None:
            unknown = blank.expand(self.T - 1, *blank.shape)
            return torch.cat([first, unknown])
        before = torch.cat([first, self.y[:-1]])
        if self.resets is None:
            return before
        return where(self.resets, blank.expand_as(before), before)


def where(mask: Bool[Tensor, "*rows"], yes: Tensor, no: Tensor) -> Tensor:
    """Return torch.where, with a mask that may have fewer axes than the values."""
    return torch.where(mask.view(*mask.shape, *[1] * (yes.ndim - mask.ndim)), yes, no)


def each(change: Callable[[Tensor], Tensor], hidden: Hidden) -> Hidden:
    """Return the hidden state with every part of it changed."""
    if isinstance(hidden, tuple):
        return tuple(change(part) for part in hidden)
    return None if hidden is None else change(hidden)


def parts(hidden: Hidden) -> tuple[Tensor, ...]:
    """Return the hidden state's tensors: h, or h and c, or none."""
    if hidden is None:
        return ()
    return hidden if isinstance(hidden, tuple) else (hidden,)


def at_ends(
    history: Shaped[Tensor, "U B ..."], lengths: Int[Tensor, " B"] | None
) -> Shaped[Tensor, "B ..."]:
    """Return of values 0 to T of every sequence the one at its own end."""
    if lengths is None:
        return history[-1].clone()  # a view would keep all of it
    return history[lengths.long(), torch.arange(len(lengths), device=lengths.device)]


def leading(y: Tensor | None, x: Tensor | None, name: str = "y") -> tuple[int, int]:
    """Return T and B of y, or else of x, both at least 1, or raise BpttError."""
    leader, name = (x, "x") if y is None else (y, name)
    if leader is None:
        raise BpttError("neither y nor x is given; expected at least one, to know T and B")
    if leader.ndim < 2 or 0 in leader.shape[:2]:
        raise BpttError(
            f"{name} has shape {tuple(leader.shape)}; expected (T, B) or (T, B, features), "
            "with at least one step and one sequence"
        )
    return leader.shape[0], leader.shape[1]


def batch_size(sequence: Tensor | None, state: State | None) -> int:
    """Return B as the sequence or else the state has it, or 1."""
    if sequence is not None:
        return leading(None, sequence)[1]
    if state is not None and state.y is not None:
        return len(state.y)
    hidden = parts(state.hidden) if state is not None else ()
    return hidden[0].shape[1] if hidden else 1


def steps_alive(
    lengths: Tensor | None, T: int, B: int, device: torch.device
) -> Bool[Tensor, "T B"] | None:
    """Return which steps lie within each sequence's length, or None where all do."""
    require_lengths(lengths, T, B)
    if lengths is None:
        return None
    return torch.arange(T, device=device).unsqueeze(1) < lengths


def require_lengths(lengths: Tensor | None, T: int, B: int) -> None:
    """Raise BpttError unless there are no lengths, or B of them, each from 0 to T."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise BpttError(f"lengths are a {type(lengths).__name__}; expected a tensor of shape (B,)")
    require_shape("lengths", lengths.shape, "(B,)", (B,))
    if lengths.is_floating_point() or int(lengths.min()) < 0 or int(lengths.max()) > T:
        raise BpttError(f"lengths are {lengths.tolist()}; expected whole numbers from 0 to T = {T}")


def as_mask(name: str, mask: object, T: int, B: int) -> Bool[Tensor, "T B"]:
    """Return a mask of zeros and ones as booleans, or raise BpttError unless it is one, (T, B)."""
    if not isinstance(mask, Tensor):
        raise BpttError(f"{name} is a {type(mask).__name__}; expected a tensor of shape (T, B)")
    require_shape(name, mask.shape, "(T, B)", (T, B))
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise BpttError(f"{name} has values other than 0 and 1; expected a mask")
    return mask.bool()


def forced_steps(
    forcing: object, T: int, B: int, device: torch.device
) -> Bool[Tensor, "T B"] | None:
    """Return where the true yᵗ⁻¹ is fed back, None where it always is; draw that, if it is chance.

    forcing: the probability, from 0 to 1, or the mask itself. Also after a mask that is all ones
    what the network says is of use: the next step may not be forced.
    """
    if isinstance(forcing, Tensor):
        return as_mask("forcing", forcing, T, B)
    if not isinstance(forcing, int | float) or not 0 <= forcing <= 1:
        raise BpttError(
            f"forcing is {forcing}; expected a probability from 0 to 1, or a (T, B) mask"
        )
    if forcing == 1:
        return None
    if forcing == 0:
        return torch.zeros(T, B, dtype=torch.bool, device=device)
    return torch.rand(T, B, device=device) < forcing


def is_random(forcing: float | Tensor, feedback: str) -> bool:
    """Return whether two runs in this regime may differ."""
    require_choice("feedback", feedback, FEEDBACKS)
    if isinstance(forcing, Tensor):
        return feedback == "sample" and not bool(forcing.all())
    return forcing != 1 and (feedback == "sample" or forcing != 0)
