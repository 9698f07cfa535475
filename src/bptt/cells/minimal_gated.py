"""The minimal gated unit (Zhou et al. 2016)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell


class MinimalGated(Cell):
    """f = σ(p_f + W_f h), h ← (1 − f) ⊙ h + f ⊙ tanh(p_h + W_h (f ⊙ h)) (Zhou et al. 2016)."""

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hf = self.matrix(hidden_size, hidden_size)
        self.weight_hh = self.matrix(hidden_size, hidden_size)

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        gate, new = p.chunk(2, dim=1)
        f = torch.sigmoid(torch.addmm(gate, h, self.weight_hf.t()))
        return torch.lerp(h, torch.tanh(torch.addmm(new, f * h, self.weight_hh.t())), f)
