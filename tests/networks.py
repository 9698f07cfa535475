"""Small networks, with data for them, that the tests of the gradient share."""

from __future__ import annotations

import torch
from torch import Tensor

import bptt

N, H, FEATURES = 5, 4, 3

# Every recurrence with every cell that goes with it: gated cells always have hidden recurrence.
RECURRENT_CELLS = [
    (recurrence, cell)
    for recurrence in ("hidden", "output", "both")
    for cell in ("tanh", "relu", "gru", "lstm")
    if recurrence != "output" or cell in ("tanh", "relu")
]


def make(
    recurrence: str, cell: str = "tanh", T: int = 7, B: int = 3, with_x: bool = True, **more: int
) -> tuple[bptt.Network, Tensor, Tensor | None]:
    """Return a float64 network with biases that are not zero, and data for it."""
    inputs = FEATURES if with_x else 0
    net = bptt.Network(
        bptt.Categorical(N), inputs=inputs, hidden=H, recurrence=recurrence, cell=cell, **more
    ).double()
    for name, parameter in net.recurrent.named_parameters():
        if name.startswith("bias_ih"):
            torch.nn.init.normal_(parameter, std=0.3)
    y = torch.randint(N, (T, B))
    return net, y, torch.randn(T, B, FEATURES).double() if with_x else None


def flat_gradient(net: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])


class UsersLSTM(torch.nn.Module):
    """What a user might write: no Network, but called like one; with integers in its state."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(N, 3)
        self.cell = torch.nn.LSTMCell(3, H)
        self.dropout = torch.nn.Dropout(dropout)
        self.readout = torch.nn.Linear(H, N)

    def forward(self, y: Tensor, x: Tensor | None = None, *, state: object = None) -> tuple:
        if state is None:
            zeros = self.readout.weight.new_zeros(y.shape[1], H)
            state = {"hc": (zeros, zeros), "last": (torch.zeros_like(y[0]), torch.tensor(0))}
        (h, c), (last, steps) = state["hc"], state["last"]
        nll = []
        for now in y:
            noise = self.dropout(torch.ones_like(h)) * (1 + 0.01 * steps)
            h, c = self.cell(self.embedding(last), (h * noise, c))
            o = self.readout(h)
            nll.append(torch.nn.functional.cross_entropy(o, now, reduction="none"))
            last, steps = now, steps + 1
        return torch.stack(nll), {"hc": (h, c), "last": (last, steps)}
