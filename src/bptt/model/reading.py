"""What a network makes of a sequence: its layers, run over what enters them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.model.closed_loop import as_rows, free_run, mean_loop
from bptt.model.encodings import Tokens
from bptt.model.given import Given, where
from bptt.model.hidden import Hidden, parts
from bptt.model.modules import Modules
from bptt.model.state import Regime, State, at_ends


class Reading(NamedTuple):
    """What a network made of a sequence, but for its losses.

    given: what it read. states: hᵗ, (T, B, H), of every layer or of the top one alone; last: each
    sequence's. said: what the network said itself, with what it said before in front, (T + 1, B,
    ...); None if it was forced throughout. outputs: oᵗ, if they had to be computed on the way.
    """

    given: Given
    states: list[Float[Tensor, "T B H"]]
    last: Hidden
    said: Tensor | None = None
    outputs: Float[Tensor, "T B O"] | None = None

    @property
    def history(self) -> Tensor:
        """The true y⁰ and, if y is given, y¹ to yᵀ."""
        first = self.given.y0.unsqueeze(0)
        return first if self.given.y is None else torch.cat([first, self.given.y])

    def after(self, lengths: Tensor | None) -> State:
        """Return each sequence's state at its own end."""
        y = None if self.given.y is None else at_ends(self.history, lengths)
        return State(self.last, y, None if self.said is None else at_ends(self.said, lengths))

    def states_after(self, steps: Sequence[int], lengths: Tensor | None) -> list[State]:
        """Return the state after each of several numbers of steps; needs every layer's states."""
        given, history = self.given, self.history
        at = torch.tensor([*steps], dtype=torch.int64, device=history.device)
        at = at.unsqueeze(1).expand(-1, given.B)
        at = at if lengths is None else torch.minimum(at, lengths)
        row = torch.arange(given.B, device=at.device)
        if given.hidden is None:
            return [State(None, y) for y in history[at, row]]
        starts, found = parts(given.hidden), []
        series = [  # of each layer, h⁰ and what was before it in front
            torch.cat([*(start[k].unsqueeze(0) for start in reversed(starts)), h])
            for k, h in enumerate(self.states)
        ]
        for j in range(len(starts)):
            hidden = torch.stack([h[at + len(starts) - 1 - j, row] for h in series], dim=1)
            if given.resets is not None:  # nothing is left of what lies before one
                resets = nn.functional.pad(given.resets.cumsum(0), (0, 0, 1, 0))
                cut = resets[at, row] > resets[(at - j).clamp(min=0), row]
                hidden = hidden.masked_fill(cut[:, None, :, None], 0)
            found.append(hidden)  # (steps, layers, B, H)
        states = zip(*found, strict=True) if len(found) > 1 else found[0]
        return [State(h, y) for h, y in zip(states, history[at, row], strict=True)]


def read(net: Modules, given: Given, feedback: str, *, every: bool = False) -> Reading:
    """Run the recurrent layers over y and x, with what the network says fed back as `feedback`."""
    blank = net.likelihood.blank(given.B, net.readout.weight)
    previous = given.previous(blank) if net.feedback_weight(given.x) is not None else None
    said = None
    if given.forced is not None and feedback == "mean":
        loop = mean_loop(net, given)
        said = torch.cat([as_rows(given.own0, loop.said), loop.said])
        return Reading(given, [loop.states], loop.last, said, loop.outputs)
    not_own = given.not_own
    if not_own is not None and previous is not None:
        noise = net.likelihood.noise(given.T, given.B, net.readout.weight)
        drawn, _ = free_run(net, given, noise)
        said = torch.cat([given.own0.unsqueeze(0), drawn])
        previous = where(not_own, previous, said[:-1])
    states, last = run_layers(net, previous, given, every=every)
    return Reading(given, states, last, said)


def state_after(net: Modules, given: Given, regime: Regime) -> State:
    """Return the state after y and x; where nothing loops, it is the last y, and nothing is run."""
    if net.is_parallel(regime):
        return Reading(given, [], None).after(regime.lengths)
    return read(net, given, regime.feedback).after(regime.lengths)


def run_layers(
    net: Modules, previous: Tensor | None, given: Given, *, every: bool = False
) -> tuple[list[Tensor], Hidden]:
    """Run the recurrent layers on x and yᵗ⁻¹; return the states of every one or of the top."""
    rows, is_projected = _rows(net, previous, given)
    states, last = net.recurrent.run_to_ends(
        rows, given.hidden, given.alive, given.resets, is_projected=is_projected
    )
    return states if every else states[-1:], last


def _rows(net: Modules, previous: Tensor | None, given: Given) -> tuple[Tensor, bool]:
    """Return what enters the recurrent layer, and whether it is pᵗ = b + U xᵗ + R yᵗ⁻¹.

    It need not be where x or yᵗ⁻¹ is all that enters, or both are rows of numbers.
    """
    encoding, R = net.likelihood.encoding, net.feedback_weight(given.x)
    enter = [] if given.x is None else [(net.inputs, given.x, net.U)]
    if previous is not None and R is not None:
        enter.append((encoding, previous, R))
    if len(enter) == 1:
        return enter[0][1], False
    if enter and not any(isinstance(kind, Tokens) for kind, _, _ in enter):
        return torch.cat([values for _, values, _ in enter], dim=-1), False
    p = net.project_x(None)
    for kind, values, weight in enter:
        p = p + kind.project(values, weight)
    return p.expand(given.T, given.B, -1), True
