"""Coupled oscillators (Rusch and Mishra 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts


class CoRNN(Cell):
    """z ← z + Δt (tanh(p + W y + Z z) − γ y − ε z), y ← y + Δt z (Rusch and Mishra 2021).

    Its gradient is bounded for small Δt. The state is y, then z. step_size: Δt. frequency: γ.
    damping: ε.
    """

    states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        step_size: float = 0.1,
        frequency: float = 1.0,
        damping: float = 1.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.step_size, self.frequency, self.damping = step_size, frequency, damping
        self.weight_hh = self.matrix(hidden_size, hidden_size)
        self.weight_zz = self.matrix(hidden_size, hidden_size)

    def step(
        self, p: Float[Tensor, "B H"], y: Float[Tensor, "B H"], z: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new y and z."""
        a = torch.addmm(torch.addmm(p, y, self.weight_hh.t()), z, self.weight_zz.t())
        z = z + self.step_size * (torch.tanh(a) - self.frequency * y - self.damping * z)
        return y + self.step_size * z, z
