"""What a network makes of a sequence: its layers, run over what enters them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.model.call import Call, where
from bptt.model.closed_loop import as_rows, mean_loop, sample_loop
from bptt.model.encodings import Tokens
from bptt.model.hidden import Hidden, parts
from bptt.model.modules import Modules
from bptt.model.state import Regime, State, at_ends


class Reading(NamedTuple):
    """What a network made of a sequence, but for its losses.

    call: what it read. states: hᵗ, (T, B, H), of every layer or of the top one alone; last: each
    sequence's. generated: what the network generated, with what it generated before in front,
    (T + 1, B, ...); None if it was forced throughout. outputs: oᵗ, if they had to be computed on
    the way.
    """

    call: Call
    states: list[Float[Tensor, "T B H"]]
    last: Hidden
    generated: Tensor | None = None
    outputs: Float[Tensor, "T B O"] | None = None

    @property
    def history(self) -> Tensor:
        """The true y⁰ and, if y is given, y¹ to yᵀ."""
        first = self.call.y0.unsqueeze(0)
        return first if self.call.y is None else torch.cat([first, self.call.y])

    def after(self, lengths: Tensor | None) -> State:
        """Return each sequence's state at its own end."""
        y = None if self.call.y is None else at_ends(self.history, lengths)
        return State(
            self.last, y, None if self.generated is None else at_ends(self.generated, lengths)
        )

    def states_after(self, steps: Sequence[int], lengths: Tensor | None) -> list[State]:
        """Return the state after each of several numbers of steps; needs every layer's states."""
        call, history = self.call, self.history
        at = torch.tensor([*steps], dtype=torch.int64, device=history.device)
        at = at.unsqueeze(1).expand(-1, call.B)
        at = at if lengths is None else torch.minimum(at, lengths)
        row = torch.arange(call.B, device=at.device)
        if call.hidden is None:
            return [State(None, y) for y in history[at, row]]
        starts, hidden_parts = parts(call.hidden), []
        series = [  # of each layer, h⁰ and what was before it in front
            torch.cat([*(start[k].unsqueeze(0) for start in reversed(starts)), h])
            for k, h in enumerate(self.states)
        ]
        for j in range(len(starts)):
            hidden = torch.stack([h[at + len(starts) - 1 - j, row] for h in series], dim=1)
            if call.resets is not None:  # nothing is left of what lies before one
                resets = nn.functional.pad(call.resets.cumsum(0), (0, 0, 1, 0))
                cut = resets[at, row] > resets[(at - j).clamp(min=0), row]
                hidden = hidden.masked_fill(cut[:, None, :, None], 0)
            hidden_parts.append(hidden)  # (steps, layers, B, H)
        states = zip(*hidden_parts, strict=True) if len(hidden_parts) > 1 else hidden_parts[0]
        return [State(h, y) for h, y in zip(states, history[at, row], strict=True)]


def read(net: Modules, call: Call, feedback: str, *, every: bool = False) -> Reading:
    """Run the recurrent layers over y and x, with what is generated fed back as `feedback`."""
    blank = net.likelihood.blank(call.B, net.readout.weight)
    previous = call.previous(blank) if net.feedback_weight(call.x) is not None else None
    generated = None
    if call.forced is not None and net.recurrent.is_noisy:
        raise BpttError(
            "forcing is below 1 for a cell with noise, which is drawn before the loop; expected "
            "forcing 1, or the network in eval(), where there is none"
        )
    if call.forced is not None and feedback == "mean":
        loop = mean_loop(net, call)
        generated = torch.cat([as_rows(call.generated0, loop.generated), loop.generated])
        return Reading(call, [loop.states], loop.last, generated, loop.outputs)
    not_generated = call.not_generated
    if not_generated is not None and previous is not None:
        noise = net.likelihood.noise(call.T, call.B, net.readout.weight)
        drawn, _ = sample_loop(net, call, noise)
        generated = torch.cat([call.generated0.unsqueeze(0), drawn])
        previous = where(not_generated, previous, generated[:-1])
    states, last = run_layers(net, previous, call, every=every)
    return Reading(call, states, last, generated)


def state_after(net: Modules, call: Call, regime: Regime) -> State:
    """Return the state after y and x; where nothing loops, it is the last y, and nothing is run."""
    if net.is_parallel(regime):
        return Reading(call, [], None).after(regime.lengths)
    return read(net, call, regime.feedback).after(regime.lengths)


def run_layers(
    net: Modules, previous: Tensor | None, call: Call, *, every: bool = False
) -> tuple[list[Tensor], Hidden]:
    """Run the recurrent layers on x and yᵗ⁻¹; return the states of every one or of the top."""
    rows, is_projected = _rows(net, previous, call)
    states, last = net.recurrent.run_to_ends(
        rows, call.hidden, call.alive, call.resets, is_projected=is_projected
    )
    return states if every else states[-1:], last


def _rows(net: Modules, previous: Tensor | None, call: Call) -> tuple[Tensor, bool]:
    """Return what enters the recurrent layer, and whether it is pᵗ = b + U xᵗ + R yᵗ⁻¹.

    It need not be where x or yᵗ⁻¹ is all that enters, or both are rows of numbers.
    """
    encoding, R = net.likelihood.encoding, net.feedback_weight(call.x)
    enter = [] if call.x is None else [(net.inputs, call.x, net.U)]
    if previous is not None and R is not None:
        enter.append((encoding, previous, R))
    if len(enter) == 1:
        return enter[0][1], False
    if enter and not any(isinstance(kind, Tokens) for kind, _, _ in enter):
        return torch.cat([values for _, values, _ in enter], dim=-1), False
    p = net.project_x(None)
    for kind, values, weight in enter:
        p = p + kind.project(values, weight)
    return p.expand(call.T, call.B, -1), True
