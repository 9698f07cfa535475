"""A linear recurrence of each unit by itself (Orvieto et al. 2023, of real numbers)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Cell


class LinearRecurrence(Cell):
    """h ← λ ⊙ h + √(1 − λ²) ⊙ p, λ = exp(−exp ν) (Orvieto et al. 2023, with real λ).

    λ starts between `slowest` and `fastest`; √(1 − λ²) keeps h of the size of p.
    """

    closed_by = "more"

    def __init__(
        self, input_size: int, hidden_size: int, fastest: float = 0.5, slowest: float = 0.999
    ) -> None:
        super().__init__(input_size, hidden_size)
        rates = torch.linspace(fastest, slowest, hidden_size)
        self.log_rate = nn.Parameter(torch.log(-torch.log(rates)))

    def step(self, p: Float[Tensor, "B H"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        rate = torch.exp(-torch.exp(self.log_rate))
        return rate * h + torch.sqrt(1 - rate * rate) * p
