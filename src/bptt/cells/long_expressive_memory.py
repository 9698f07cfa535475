"""Long expressive memory (Rusch et al. 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts


class LEM(Cell):
    """Two states, each with time steps of its own for every unit (Rusch et al. 2022).

    d = Δt σ(p_d + W_d y), e = Δt σ(p_e + W_e y), z ← (1 − d) ⊙ z + d ⊙ tanh(p_z + W_z y),
    y ← (1 − e) ⊙ y + e ⊙ tanh(p_y + W_y z). The state is y, then z. step_size: Δt.
    """

    gates = 4
    states = 2

    def __init__(self, input_size: int, hidden_size: int, step_size: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.step_size = step_size
        self.weight_hh = self.matrix(3 * hidden_size, hidden_size)
        self.weight_zh = self.matrix(hidden_size, hidden_size)

    def step(
        self, p: Float[Tensor, "B G"], y: Float[Tensor, "B H"], z: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new y and z."""
        H = self.hidden_size
        d, e, new = torch.addmm(p[:, : 3 * H], y, self.weight_hh.t()).chunk(3, dim=1)
        d, e = self.step_size * torch.sigmoid(d), self.step_size * torch.sigmoid(e)
        z = torch.lerp(z, torch.tanh(new), d)
        new = torch.addmm(p[:, 3 * H :], z, self.weight_zh.t())
        return torch.lerp(y, torch.tanh(new), e), z
