"""Digits read pixel by pixel: scikit-learn's 8 × 8 ones, a sequence of 64 steps each.

    python benchmarks/published/digits.py [--seeds 3] [--epochs 60]

Le, Jaitly and Hinton 2015 have the 28 × 28 ones, where a vanilla network fails and the identity
start gets 97%; these are fewer and smaller, so that the figures are of another set. 128 units; of
the 1,797 digits 360, always the same, are for the test. The skip's delay, 8, is the pixel above.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

import bptt
from bptt.training.remedies import clip_gradient

HIDDEN, BATCH, TESTED, RATE, CLIP = 128, 32, 360, 1e-3, 1.0
SETTINGS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "tanh, layer normalisation": {"norm": True},
    "tanh, leaks of 1/64 to 1": {"leak": (1 / 64, 1.0)},
    "tanh, skips of 8": {"skips": 8},
    "tanh, skips of 8, layer normalisation": {"skips": 8, "norm": True},
    "relu, identity start": {"cell": "relu", "init": "identity"},
    "gru": {"cell": "gru"},
    "lstm, chrono start": {"cell": "lstm", "init": bptt.Initial(chrono=64)},
}


def digits() -> tuple[Tensor, Tensor]:
    """Return the pixels, (64, N, 1), from −1 to 1, and the digits, (N)."""
    found = load_digits()
    pixels = torch.from_numpy(found.images).float().flatten(1) / 8 - 1
    return pixels.t().unsqueeze(-1), torch.from_numpy(found.target).long()


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Return which digits are to train on, and which to test on."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[TESTED:], order[:TESTED]


def accuracy(shape: dict[str, Any], seed: int, epochs: int) -> float:
    """Train a network; return the share of the test's digits that it tells."""
    torch.manual_seed(seed)
    x, y = digits()
    trained, tested = halves(len(y))
    likelihood = bptt.Categorical(10)
    net = bptt.Network(likelihood, inputs=1, hidden=HIDDEN, recurrence="hidden", **shape)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    updates = epochs * (len(trained) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, updates, pct_start=0.1)
    weights = torch.zeros(len(x), BATCH)
    weights[-1] = 1  # the answer comes last
    for _ in range(epochs):
        order = trained[torch.randperm(len(trained))]
        for some in order[: len(order) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            bptt.backward(net, y[some].expand(len(x), BATCH), x=x[:, some], loss_weights=weights)
            clip_gradient(parameters, CLIP)
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        outputs = net(x=x[:, tested]).outputs[-1]
    return float((outputs.argmax(-1) == y[tested]).float().mean())


def main() -> None:
    """Train every network with every seed; print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{options.epochs} epochs, {options.seeds} seeds; test accuracy, mean (least to most)")
    for name, shape in SETTINGS.items():
        began = time.perf_counter()
        found = [accuracy(shape, seed, options.epochs) for seed in range(options.seeds)]
        seconds = time.perf_counter() - began
        print(
            f"{name:40} {statistics.mean(found):.2%} ({min(found):.2%} to {max(found):.2%})  "
            f"{seconds:4.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
