"""The gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Cell
from bptt.kernel.plain_loop import Parts, Step


def gru(W: Float[Tensor, "G H"], bias: Float[Tensor, " G"] | None = None) -> Step:
    """Return the step of a gated recurrent unit (Cho et al. 2014), as torch.nn.GRU writes it.

    (aᵣ, a_z, aₙ) = bias + W h, r = σ(pᵣ + aᵣ), z = σ(p_z + a_z), n = tanh(pₙ + r ⊙ aₙ),
    h ← (1 − z) ⊙ n + z ⊙ h.
    """

    def step(p: Float[Tensor, "B G"], state: Parts) -> Parts:
        (h,) = state
        H = h.shape[1]
        a = torch.nn.functional.linear(h, W, bias)
        r, z = torch.sigmoid(p[:, : 2 * H] + a[:, : 2 * H]).chunk(2, dim=1)
        n = torch.tanh(p[:, 2 * H :] + r * a[:, 2 * H :])
        return (torch.lerp(n, h, z),)

    return step


class GRUCell(Cell):
    """torch.nn.GRUCell, faster on a CPU: a gated recurrent unit (Cho et al. 2014)."""

    gates = 3
    is_torchs = True
    keeps = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **where: Any) -> None:
        super().__init__(input_size, hidden_size, bias=bias, **where)
        self.weight_hh = self.matrix(self.gates * hidden_size, hidden_size)
        self.bias_hh = self.torch_biases()

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        (h,) = gru(self.weight_hh, self.bias_hh)(p, (h,))
        return h
