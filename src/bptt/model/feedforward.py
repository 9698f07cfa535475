"""A stack without recurrence from hidden to hidden, whose steps need no loop."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Activation
from bptt.cells.elman import feedforward, feedforward_rows
from bptt.cells.registry import CELLS
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.ops import Recipe, Run
from bptt.model.hidden import Hidden
from bptt.model.stack import Stack


class Feedforward(Stack):
    """hᵗ = f(pᵗ): a stack of layers without hidden-to-hidden recurrence, hence without a loop."""

    closed_by = "output"
    bidirectional = False
    dropout = 0.0
    weight_ih_l0: Tensor
    bias_ih_l0: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.nonlinearity = nonlinearity
        for k in range(num_layers):
            columns = input_size if k == 0 else hidden_size
            self.register_parameter(
                f"weight_ih_l{k}", nn.Parameter(torch.empty(hidden_size, columns))
            )
            self.register_parameter(f"bias_ih_l{k}", nn.Parameter(torch.empty(hidden_size)))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    @property
    def f(self) -> Activation:
        """What it is called by."""
        f = CELLS[self.nonlinearity].f
        assert f is not None
        return f

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def part(self, name: str, suffix: str = "") -> Any:
        """Return a parameter, such as weight_ih, or None for a W, which there is not."""
        return getattr(self, name + suffix, None)

    def parts_of(self, suffix: str) -> dict[str, Tensor]:
        """Return what a layer is made of, by names with its suffix: parameters, or as computed."""
        return {f"{name}{suffix}": self.part(name, suffix) for name in ("weight_ih", "bias_ih")}

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """How many numbers each part of a layer's state has: there is none."""
        return ()

    def recipe(self, suffix: str) -> Recipe:
        """Return what makes h ← f(p), whatever the state."""
        return Recipe(feedforward, (), (self.f,))

    def zero_state(self, B: int) -> Hidden:
        """Return the state of B fresh sequences: there is none."""
        return None

    def run(
        self,
        rows: Tensor,
        hidden: Hidden,
        layout: Layout = DENSE,
        *,
        is_projected: bool = False,
        through: Run | None = None,
    ) -> tuple[list[Float[Tensor, "... H"]], Hidden]:
        """Return every layer's h at once; where the rows lie in time plays no part."""
        every = []
        for k in range(self.num_layers):
            if k == 0 and is_projected:
                rows = self.f(rows)
            else:
                suffix = f"_l{k}"
                U, b = self.part("weight_ih", suffix), self.part("bias_ih", suffix)
                rows = feedforward_rows(self.f, rows, U, b)
            every.append(rows)
        return every, None
