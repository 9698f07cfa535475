"""The inputs of a call of a network: checked, before anything is computed."""

from __future__ import annotations

import contextlib
from numbers import Real
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_choice, require_kind, require_shape, shown
from bptt.model.encodings import require_dtype
from bptt.model.hidden import Hidden, parts
from bptt.model.masks import as_mask, steps_alive
from bptt.model.modules import Modules
from bptt.model.state import FEEDBACKS, Regime, State


class Call(NamedTuple):
    """The inputs of a call, checked.

    y0 and generated0: the true y⁰ and the generated one; y: true values; x: inputs.
    alive: (T, B), which steps lie within their sequences, None where all do.
    resets: (T, B), before which steps the state is zeroed.
    forced: (T, B), where the true yᵗ⁻¹ enters and not the generated one; None where it always does.
    """

    T: int
    B: int
    hidden: Hidden
    y0: Shaped[Tensor, " B *y"]
    generated0: Tensor
    y: Shaped[Tensor, "T B *y"] | None = None
    x: Shaped[Tensor, "T B *x"] | None = None
    alive: Bool[Tensor, "T B"] | None = None
    resets: Bool[Tensor, "T B"] | None = None
    forced: Bool[Tensor, "T B"] | None = None

    @property
    def not_generated(self) -> Bool[Tensor, "T B"] | None:
        """Where the generated yᵗ⁻¹ does not enter: the true one does, or after a reset none."""
        if self.forced is None or self.resets is None:
            return self.forced
        return self.forced | self.resets

    def previous(self, blank: Tensor) -> Shaped[Tensor, "T B *y"]:
        """Return the true yᵗ⁻¹ of every step, `blank` after a reset and where there is none."""
        known = blank.expand(self.T - 1, *blank.shape) if self.y is None else self.y[:-1]
        before = torch.cat([self.y0.unsqueeze(0), known])
        if self.resets is None:
            return before
        return where(self.resets, blank.expand_as(before), before)


def checked(
    net: Modules, y: Tensor | None, x: Tensor | None, state: State | None, regime: Regime
) -> Call:
    """Return the inputs of a call, 0 beyond the sequences' ends, or raise BpttError.

    What lies beyond an end may be any filler, even NaN, so nothing may be computed from it.
    """
    require_choice("feedback", regime.feedback, FEEDBACKS)
    for name, values in (("y", y), ("x", x)):
        if values is not None:
            require_tensor(name, values)
    _require_time_first(regime.lengths, y if y is not None else x)
    if y is None and x is None and net.feeds_back:
        _y_is_missing(net)
    T, B = leading(y, x)
    weight = net.readout.weight
    alive = steps_alive(regime.lengths, T, B, weight.device)
    x = checked_x(net, x, T, B, alive)
    forces, is_forced = checked_forcing(regime.forcing, T, B)
    closes = net.feedback_weight(x) is not None
    if y is None and closes and forces:
        _y_is_missing(net)
    resets = None if regime.resets is None else as_mask("resets", regime.resets, T, B)
    net.recurrent.require_no_resets(resets)
    if resets is not None and alive is not None:
        resets = resets & alive  # beyond an end nothing happens, to the state there neither
    y = None if y is None else net.likelihood.checked("y", y, T, B, weight, alive)
    hidden, y0, generated0 = start_of(net, state, B)
    if closes and not is_forced and regime.feedback == "sample":
        _require_samples(net, generated0)
    forced = forced_steps(regime.forcing, T, B, weight.device)  # drawn once all has been checked
    return Call(T, B, hidden, y0, generated0, y, x, alive, resets, forced if closes else None)


def _require_samples(net: Modules, generated: Tensor) -> None:
    """Raise BpttError where the generated y⁰ is the mean of symbols."""
    blank = net.likelihood.blank(1, net.readout.weight)
    if generated.is_floating_point() != blank.is_floating_point():
        raise BpttError(
            'state.generated holds means; expected samples: the state comes from feedback "mean" '
            "(go on with that, or from state._replace(generated=None), the last true y)"
        )


def _y_is_missing(net: Modules) -> NoReturn:
    raise BpttError(
        f'y is missing; expected the true values, since recurrence "{net.recurrence}" '
        "feeds them back (for a free run use net.generate, or forcing=0 with x)"
    )


def checked_x(
    net: Modules, x: Tensor | None, T: int, B: int, alive: Tensor | None = None
) -> Tensor | None:
    """Return x, 0 where not alive, or raise BpttError unless it is what the network takes."""
    if x is not None and net.inputs.width == 0:
        raise BpttError("x is given; expected none, since the network was made with inputs=0")
    if x is None and net.inputs.width > 0 and not net.x_can_be_previous_y:
        raise BpttError(f"x is missing; expected it, since the network has {net.inputs}")
    if x is None:
        return None
    return net.inputs.checked("x", x, T, B, net.readout.weight, alive)


def start_of(net: Modules, state: State | None, B: int) -> tuple[Hidden, Tensor, Tensor]:
    """Return h⁰, the true y⁰ and the generated one, or raise BpttError.

    They are zero where the state does not give them, or h⁰ what was learned; the generated y⁰ is
    then the true one.
    """
    if not isinstance(state, State | None):
        raise BpttError(
            f"state is a {type(state).__name__}; expected what an earlier call returned, "
            "or bptt.State(hidden)"
        )
    hidden, y, generated = State() if state is None else state
    for name, part in (("y", y), ("generated", generated)):
        if part is not None:
            require_tensor(f"state.{name}", part)
    for part in hidden if isinstance(hidden, tuple) else () if hidden is None else (hidden,):
        require_tensor("state.hidden", part)
    zero = net.recurrent.zero_state(B)
    hidden = net.recurrent.fresh_state(B) if hidden is None else hidden
    if len(parts(hidden)) != len(parts(zero)):
        raise BpttError(
            f"state.hidden is another network's: it has {len(parts(hidden))} parts; expected "
            f'(h, c) for an LSTM, the last h for skips, None for recurrence "output", else h: this '
            f"is {net.recurrent}"
        )
    for i, (got, want) in enumerate(zip(parts(hidden), parts(zero), strict=True)):
        name = "state.hidden" if len(parts(zero)) == 1 else f"state.hidden[{i}]"
        require_shape(name, got.shape, "(layers, B, H)", want.shape)
        require_dtype(name, got, want)
    weight, encoding = net.readout.weight, net.likelihood.encoding
    blank = net.likelihood.blank(B, weight)
    y = blank if y is None else y
    require_shape("state.y", y.shape, "(B, ...)", blank.shape)
    y = encoding.checked("state.y", y.unsqueeze(0), 1, B, weight).squeeze(0)
    if generated is None:
        return hidden, y, y
    if generated.dtype == weight.dtype:  # numbers, or the mean of symbols
        require_shape("state.generated", generated.shape, "(B, Y)", (B, encoding.width))
    else:
        generated = encoding.checked(
            "state.generated", generated.unsqueeze(0), 1, B, weight
        ).squeeze(0)
    return hidden, y, generated


def fresh_state(net: Modules, B: int) -> State:
    """Return h⁰, zero or learned, and y⁰ = 0 of B sequences."""
    hidden, y, _ = start_of(net, None, B)
    return State(hidden, y)


def require_tensor(name: str, values: object) -> None:
    """Raise BpttError unless values are a plain tensor with numbers in it."""
    require_kind(name, values, Tensor, "a tensor, time first: (T, B) or (T, B, features)")
    assert isinstance(values, Tensor)
    if values.layout != torch.strided or values.is_complex() or values.is_meta:
        what = "complex" if values.is_complex() else "meta" if values.is_meta else "sparse"
        raise BpttError(f"{name} is a {what} tensor; expected a plain one, of real numbers")


def as_numbers(name: str, values: object) -> Tensor:
    """Return a tensor of what can be one, or raise BpttError: an array, a number, or a list."""
    if isinstance(values, Tensor):
        require_tensor(name, values)
        return values
    if isinstance(values, np.ndarray | Real | list | tuple):
        # It fails for lists of several lengths, and of things that are no numbers.
        with contextlib.suppress(ValueError, TypeError, RuntimeError):
            numbers = torch.as_tensor(values)
            require_tensor(name, numbers)
            return numbers
    raise BpttError(f"{name} is {shown(values)}; expected real numbers, as in a tensor")


def _require_time_first(lengths: object, values: Tensor | None) -> None:
    """Raise BpttError where the lengths give it away that the batch comes first."""
    if not isinstance(lengths, Tensor) or values is None or values.ndim < 2 or lengths.ndim != 1:
        return
    first, second = values.shape[:2]
    if len(lengths) == first != second:
        raise BpttError(
            f"there are {len(lengths)} lengths, and y or x has shape {tuple(values.shape)}; "
            "expected time first, (T, B, ...): give it transposed, as in y.transpose(0, 1)"
        )


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
    if state is None:
        return 1
    for values in (state.y, state.generated):
        if values is not None:
            return len(values)
    hidden = parts(state.hidden)
    return hidden[0].shape[1] if hidden else 1


def require_forcing(forcing: object) -> None:
    """Raise BpttError unless forcing is a mask, or a probability."""
    if isinstance(forcing, Tensor):
        return
    if not isinstance(forcing, int | float) or not 0 <= forcing <= 1:
        raise BpttError(
            f"forcing is {shown(forcing)}; expected a probability from 0 to 1, or a (T, B) mask"
        )


def checked_forcing(forcing: object, T: int, B: int) -> tuple[bool, bool]:
    """Return whether the true yᵗ⁻¹ may be fed back, and whether it always is; or raise."""
    if isinstance(forcing, Tensor):
        return bool(as_mask("forcing", forcing, T, B).any()), False
    require_forcing(forcing)
    return forcing != 0, forcing == 1


def forced_steps(
    forcing: float | Tensor, T: int, B: int, device: torch.device
) -> Bool[Tensor, "T B"] | None:
    """Return where the true yᵗ⁻¹ is fed back, None where it always is; draw that, if it is chance.

    forcing: the probability, from 0 to 1, or the mask itself. Also after a mask that is all ones
    what the network generates is of use: the next step may not be forced.
    """
    if isinstance(forcing, Tensor):
        return as_mask("forcing", forcing, T, B)
    if forcing == 1:
        return None
    if forcing == 0:
        return torch.zeros(T, B, dtype=torch.bool, device=device)
    return torch.rand(T, B, device=device) < forcing


def where(mask: Bool[Tensor, "*rows"], yes: Tensor, no: Tensor) -> Tensor:
    """Return torch.where, with a mask that may have fewer axes than the values."""
    return torch.where(mask.view(*mask.shape, *[1] * (yes.ndim - mask.ndim)), yes, no)
