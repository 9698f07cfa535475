"""The state of a stack of layers: its form, and what is done to every part of it."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Hidden = Float[Tensor, "layers B _"] | tuple[Float[Tensor, "layers B _"], ...] | None
"""What layers carry from step to step: h; (h, c) for an LSTM; None where nothing loops."""


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
