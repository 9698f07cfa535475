"""What is known of a cell besides its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Step

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """What a layer of H units has for a cell.

    name: ours; mode: torch's. make: what makes its step, of the tensors in its loop. gates: how
    many rows of U, W and b a unit has. states: of how many parts the state is. f: of a cell that is
    f(p + W h) and no more, which may have other things in its loop too; None for one with gates.
    keeps, lets_in: by which gate's bias, the larger it is, the state is kept, and new is let in.
    """

    name: str
    mode: str
    make: Callable[..., Step]
    gates: int = 1
    states: int = 1
    f: Activation | None = None
    keeps: int | None = None
    lets_in: int | None = None

    def recipe(self, *tensors: Tensor | None) -> Recipe:
        """Return what makes the step, of W and what else there is in the loop."""
        return Recipe(self.make, tensors, () if self.f is None else (self.f,))
