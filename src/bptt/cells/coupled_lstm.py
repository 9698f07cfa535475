"""Long short-term memory with one gate for what is kept and what is let in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts


class CoupledLSTM(Cell):
    """An LSTM that forgets as much as it lets in (Greff et al. 2017: CIFG).

    (f, g, o) = p + W h, c ← σ(f) ⊙ c + (1 − σ(f)) ⊙ tanh(g), h ← σ(o) ⊙ tanh(c).
    """

    gates = 3
    states = 2
    keeps = 0

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = self.matrix(3 * hidden_size, hidden_size)

    def step(
        self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"], c: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new h and c."""
        f, g, o = torch.addmm(p, h, self.weight_hh.t()).chunk(3, dim=1)
        c = torch.lerp(torch.tanh(g), c, torch.sigmoid(f))
        return torch.sigmoid(o) * torch.tanh(c), c
