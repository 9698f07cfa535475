"""A gated recurrent unit with layer normalisation (Ba et al. 2016)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Cell


class NormGRU(Cell):
    """A GRU whose sums are normalised over their units (Ba et al. 2016, supplement).

    (aᵣ, a_z) = N(W h), aₙ = N(Wₙ h), r = σ(N(pᵣ) + aᵣ), z = σ(N(p_z) + a_z),
    h ← (1 − z) ⊙ tanh(N(pₙ) + r ⊙ aₙ) + z ⊙ h; each N with a gain and a shift of its own.
    """

    gates = 3
    keeps = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        H = hidden_size
        self.weight_hh = self.matrix(3 * H, H)
        self.norm_gates_p, self.norm_gates_h = nn.LayerNorm(2 * H), nn.LayerNorm(2 * H)
        self.norm_new_p, self.norm_new_h = nn.LayerNorm(H), nn.LayerNorm(H)

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        H = self.hidden_size
        a = h @ self.weight_hh.t()
        gates = self.norm_gates_p(p[:, : 2 * H]) + self.norm_gates_h(a[:, : 2 * H])
        r, z = torch.sigmoid(gates).chunk(2, dim=1)
        new = torch.tanh(self.norm_new_p(p[:, 2 * H :]) + r * self.norm_new_h(a[:, 2 * H :]))
        return torch.lerp(new, h, z)
