"""The minimal gated unit's successor without W: minGRU (Feng et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell


class MinGRU(Cell):
    """z = σ(U_z x), h ← (1 − z) ⊙ h + z ⊙ U_h x (Feng et al. 2024, section 3.1).

    Neither the gate nor what is new depends on h, so that every unit forgets by itself.
    """

    gates = 2

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        z, new = p.chunk(2, dim=1)
        return torch.lerp(h, new, torch.sigmoid(z))
