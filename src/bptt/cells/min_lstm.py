"""Long short-term memory without a recurrent matrix: minLSTM (Feng et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell


class MinLSTM(Cell):
    """f, i = σ(p_f), σ(p_i), h ← (f ⊙ h + i ⊙ pₕ) / (f + i) (Feng et al. 2024).

    What is kept and what is new add up to one, and neither gate depends on h.
    """

    gates = 3

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        f, i, new = p.chunk(3, dim=1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        return (f * h + i * new) / (f + i)
