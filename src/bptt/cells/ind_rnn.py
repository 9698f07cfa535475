"""Independently recurrent units (Li et al. 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Cell


class IndRNN(Cell):
    """h ← relu(p + u ⊙ h): each unit loops to itself alone (Li et al. 2018).

    u starts uniform in (0, 1), so that units remember over times of all lengths.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.rand(hidden_size))

    def step(self, p: Float[Tensor, "B H"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        return torch.relu(p + self.weight_hh * h)
