"""The update gate network (Collins, Sohl-Dickstein and Sussillo 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell


class UGRNN(Cell):
    """g = σ(p_g + W_g h + 1), h ← g ⊙ h + (1 − g) ⊙ tanh(p_c + W_c h) (Collins et al. 2017)."""

    gates = 2
    keeps = 0

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = self.matrix(2 * hidden_size, hidden_size)

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        g, new = torch.addmm(p, h, self.weight_hh.t()).chunk(2, dim=1)
        return torch.lerp(torch.tanh(new), h, torch.sigmoid(g + 1))
