"""What goes into a network and what comes out: its state, its output, and a call's data."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from bptt.errors import require_choice
from bptt.model.hidden import Hidden

FEEDBACKS = ("sample", "mean")


class State(NamedTuple):
    """What a network carries from one step to the next; every part may be left out, meaning zero.

    hidden: (layers, B, H), or a pair (h, c) of these for an LSTM; None where nothing loops over h.
    y: the last true y, (B,) for symbols, (B, d) for numbers.
    generated: what the network generated last, where it was not forced: a sample, like y, or with
    feedback "mean" the mean, (B, Y). It is fed back at the next step if that is not forced either.
    """

    hidden: Hidden = None
    y: Tensor | None = None
    generated: Tensor | None = None


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

    def to(self, device: torch.device) -> Regime:
        """Return it with its tensors on a device, but for those without numbers."""
        lengths, resets, forcing, feedback = (
            part.to(device) if isinstance(part, Tensor) and not part.is_meta else part
            for part in self
        )
        return Regime(lengths, resets, forcing, feedback)  # type: ignore[arg-type]

    @property
    def is_forced(self) -> bool:
        """Whether the true values are always fed back."""
        return not isinstance(self.forcing, Tensor) and self.forcing == 1

    def options(self) -> dict[str, Any]:
        """Return what is not as usual, as keyword arguments."""
        usual = Regime()
        pairs = zip(self._fields, self, usual, strict=True)
        return {name: mine for name, mine, its in pairs if isinstance(mine, Tensor) or mine != its}


def at_ends(
    history: Shaped[Tensor, "U B ..."], lengths: Int[Tensor, " B"] | None
) -> Shaped[Tensor, "B ..."]:
    """Return of values 0 to T of every sequence the one at its own end."""
    if lengths is None:
        return history[-1].clone()  # a view would keep all of it
    return history[lengths.long(), torch.arange(len(lengths), device=lengths.device)]


def is_random(forcing: float | Tensor, feedback: str) -> bool:
    """Return whether two runs in this regime may differ."""
    require_choice("feedback", feedback, FEEDBACKS)
    if isinstance(forcing, Tensor):
        return feedback == "sample" and not bool(forcing.all())
    return forcing != 1 and (feedback == "sample" or forcing != 0)
