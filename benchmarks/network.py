"""Training steps a second of a Network on text, next to the same network in plain torch.

B = 32, a window of 100 steps, 65 symbols, Adam on both sides. The two take turns; medians.

    python benchmarks/network.py [--hidden 256]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import bptt

T, B, N, ROUNDS, STEPS = 100, 32, 65, 9, 10


class Plain(nn.Module):
    """Embedding, torch.nn.RNN, Linear: what one writes in torch."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N, hidden)
        self.rnn = nn.RNN(hidden, hidden)
        self.readout = nn.Linear(hidden, N)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.readout(self.rnn(self.embedding(x))[0])
        return logits


def plain_step(hidden: int, y: Tensor) -> Callable[[], float]:
    """Return a training step of the plain network, which returns its loss."""
    net = Plain(hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(y[:-1]).flatten(0, 1), y[1:].flatten())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(hidden: int, y: Tensor) -> Callable[[], float]:
    """Return a training step of our network, which returns its loss."""
    net = bptt.Network(bptt.Categorical(N), hidden=hidden)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        done = bptt.backward(net, y[1:], state=bptt.State(y=y[0]))
        optimizer.step()
        return float(done.loss)

    return step


def check(hidden: int, y: Tensor) -> None:
    """Raise unless the two networks, given the same weights, have the same loss."""
    theirs, ours = Plain(hidden), bptt.Network(bptt.Categorical(N), hidden=hidden)
    with torch.no_grad():
        mine, its = (dict(net.named_parameters()) for net in (ours.recurrent, theirs.rnn))
        mine["weight_ih_l0"].copy_(its["weight_ih_l0"] @ theirs.embedding.weight.t())
        mine["weight_hh_l0"].copy_(its["weight_hh_l0"])
        mine["bias_ih_l0"].copy_(its["bias_ih_l0"] + its["bias_hh_l0"])
        ours.readout.load_state_dict(theirs.readout.state_dict())
        logits = ours(y[1:], state=bptt.State(y=y[0])).outputs
        torch.testing.assert_close(logits, theirs(y[:-1]), rtol=1e-4, atol=1e-5)


def main() -> None:
    """Check, then time the two in turns, and print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hidden", type=int, default=256)
    hidden = parser.parse_args().hidden
    torch.manual_seed(0)
    y = torch.randint(N, (T + 1, B))
    check(hidden, y)
    steps = {"torch": plain_step(hidden, y), "bptt": our_step(hidden, y)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step()
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - began) / STEPS)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:6} {1 / seconds:8.1f} training steps a second  (H = {hidden})")
    ratios = [a / b for a, b in zip(times["torch"], times["bptt"], strict=True)]
    print(f"ratio  {statistics.median(ratios):8.2f}")


if __name__ == "__main__":
    main()
