"""The gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.torch_cell import TorchCell
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


class GRUCell(TorchCell):
    """torch.nn.GRUCell: a gated recurrent unit (Cho et al. 2014)."""

    gates = 3
    keeps = 1
    by_torch = torch.gru_cell

    def step(self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return the new h."""
        (h,) = gru(self.weight_hh, self.bias_hh)(p, (h,))
        return h
