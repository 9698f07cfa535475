"""The gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.kind import Kind
from bptt.kernel.plain_loop import State, Step


def gru(W: Float[Tensor, "G H"], bias: Float[Tensor, " G"] | None = None) -> Step:
    """Return the step of a gated recurrent unit (Cho et al. 2014), as torch.nn.GRU writes it.

    (aᵣ, a_z, aₙ) = bias + W h, r = σ(pᵣ + aᵣ), z = σ(p_z + a_z), n = tanh(pₙ + r ⊙ aₙ),
    h ← (1 − z) ⊙ n + z ⊙ h.
    """

    def step(p: Float[Tensor, "B G"], state: State) -> State:
        (h,) = state
        H = h.shape[1]
        a = torch.nn.functional.linear(h, W, bias)
        r, z = torch.sigmoid(p[:, : 2 * H] + a[:, : 2 * H]).chunk(2, dim=1)
        n = torch.tanh(p[:, 2 * H :] + r * a[:, 2 * H :])
        return (torch.lerp(n, h, z),)

    return step


GRU = Kind("gru", "GRU", gru, gates=3, keeps=1)
