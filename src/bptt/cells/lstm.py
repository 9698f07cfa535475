"""Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.torch_cell import TorchCell
from bptt.kernel.plain_loop import Parts, Step


def lstm(W: Float[Tensor, "G R"], V: Float[Tensor, "R H"] | None = None) -> Step:
    """Return the step of a long short-term memory (Gers et al. 2000), as torch.nn.LSTM writes it.

    (i, f, g, o) = p + W h, c ← σ(f) ⊙ c + σ(i) ⊙ tanh(g), h ← σ(o) ⊙ tanh(c); or, with a
    projection, h ← V (σ(o) ⊙ tanh(c)), R wide (Sak et al. 2014).
    """

    def step(p: Float[Tensor, "B G"], state: Parts) -> Parts:
        h, c = state
        i, f, g, o = torch.addmm(p, h, W.t()).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h if V is None else torch.nn.functional.linear(h, V), c

    return step


class LSTMCell(TorchCell):
    """torch.nn.LSTMCell: long short-term memory (Gers et al. 2000)."""

    gates = 4
    states = 2
    keeps = 1
    lets_in = 0
    by_torch = torch.lstm_cell
    biases = ("bias_ih", "bias_hh")

    def step(
        self, p: Float[Tensor, "B G"], h: Float[Tensor, "B H"], c: Float[Tensor, "B H"]
    ) -> Parts:
        """Return the new h and c."""
        return lstm(self.weight_hh)(p, (h, c))
