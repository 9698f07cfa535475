"""Piecewise linear maps, whose dynamics can be worked out (Durstewitz 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Cell
from bptt.errors import require_whole

SMALL = 0.02
"""The spread of W at first: the map is nearly linear then, and forgets."""


class PLRNN(Cell):
    """z ← A ⊙ z + W relu(z) + p, A diagonal, W without a diagonal (Durstewitz 2017)."""

    closed_by = "more"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rate = nn.Parameter(torch.full((hidden_size,), 0.9))
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) * SMALL)

    def step(self, p: Float[Tensor, "B H"], z: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new z."""
        W = self.weight_hh - torch.diag(torch.diagonal(self.weight_hh))
        return torch.addmm(p + self.rate * z, torch.relu(z), W.t())


class ALRNN(Cell):
    """z ← A ⊙ z + W φ(z) + p, φ the relu of `rectified` units alone (Brenner et al. 2024).

    The fewer are rectified, the fewer linear pieces the map has.
    """

    closed_by = "more"

    def __init__(self, input_size: int, hidden_size: int, rectified: int = 2) -> None:
        super().__init__(input_size, hidden_size)
        require_whole("rectified", rectified, 0, hidden_size)
        self.linear = hidden_size - rectified
        self.rate = nn.Parameter(torch.full((hidden_size,), 0.9))
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) * SMALL)

    def step(self, p: Float[Tensor, "B H"], z: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new z."""
        rows = torch.cat([z[:, : self.linear], torch.relu(z[:, self.linear :])], dim=1)
        return torch.addmm(p + self.rate * z, rows, self.weight_hh.t())
