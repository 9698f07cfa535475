"""Long short-term memory with layer normalisation (Ba et al. 2016)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts


class NormLSTM(Cell):
    """An LSTM whose sums are normalised over their units (Ba et al. 2016, supplement).

    (i, f, g, o) = N(p) + N(W h), c ← σ(f) ⊙ c + σ(i) ⊙ tanh(g), h ← σ(o) ⊙ tanh(N(c)); each N
    with a gain and a shift of its own.
    """

    gates = 4
    states = 2
    keeps = 1
    lets_in = 0

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        H = hidden_size
        self.weight_hh = self.matrix(4 * H, H)
        self.norm_p, self.norm_h = nn.LayerNorm(4 * H), nn.LayerNorm(4 * H)
        self.norm_c = nn.LayerNorm(H)

    def step(
        self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"], c: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new h and c."""
        a = self.norm_p(p) + self.norm_h(h @ self.weight_hh.t())
        i, f, g, o = a.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_c(c)), c
