"""The antisymmetric network, stable by its form (Chang et al. 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell


class Antisymmetric(Cell):
    """h ← h + ε tanh(p + (M − Mᵀ − γ I) h) (Chang et al. 2019).

    An antisymmetric matrix has imaginary eigenvalues: without γ what is small neither grows nor
    fades. step_size: ε. diffusion: γ, which makes up for the steps' finite size.
    """

    def __init__(
        self, input_size: int, hidden_size: int, step_size: float = 0.1, diffusion: float = 0.01
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.step_size, self.diffusion = step_size, diffusion
        self.weight_hh = self.matrix(hidden_size, hidden_size)

    def step(self, p: Float[Tensor, "B H"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        a = torch.addmm(p, h, self.weight_hh.t() - self.weight_hh) - self.diffusion * h
        return h + self.step_size * torch.tanh(a)
