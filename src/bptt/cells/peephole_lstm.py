"""Long short-term memory with peepholes (Gers and Schmidhuber 2000)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts


class PeepholeLSTM(Cell):
    """An LSTM whose gates see c (Gers and Schmidhuber 2000).

    (i, f, g, o) = p + W h, c' = σ(f + v_f ⊙ c) ⊙ c + σ(i + v_i ⊙ c) ⊙ tanh(g),
    h ← σ(o + v_o ⊙ c') ⊙ tanh(c'), c ← c'.
    """

    gates = 4
    states = 2
    keeps = 1
    lets_in = 0

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = self.matrix(4 * hidden_size, hidden_size)
        self.peep_i, self.peep_f, self.peep_o = (self.matrix(hidden_size) for _ in range(3))

    def step(
        self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"], c: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new h and c."""
        i, f, g, o = torch.addmm(p, h, self.weight_hh.t()).chunk(4, dim=1)
        carried = torch.sigmoid(f + self.peep_f * c) * c
        c = carried + torch.sigmoid(i + self.peep_i * c) * torch.tanh(g)
        return torch.sigmoid(o + self.peep_o * c) * torch.tanh(c), c
