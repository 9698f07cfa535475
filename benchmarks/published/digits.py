"""Digits read pixel by pixel: scikit-learn's 8 × 8 ones, a sequence of 64 steps each.

    python benchmarks/published/digits.py [--seeds 3] [--epochs 60]

Le, Jaitly and Hinton 2015 have the 28 × 28 ones, where a vanilla network fails and the identity
start gets 97%; these are fewer and smaller, so that the figures are of another set. 128 units; of
the 1,797 digits 360, always the same, are for the test. Each is the label of its sequence.
The skip's delay, 8, is the pixel above.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import bptt

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


def digits() -> bptt.Labelled:
    """Return the digits, pixels from −1 to 1 and a label each, those for the test held out."""
    known = load_digits()
    pixels = list((known.images.reshape(len(known.images), -1, 1) / 8 - 1).astype(np.float32))
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = [
        {"x": [pixels[k] for k in which], "labels": known.target[which].tolist()}
        for which in (order[TESTED:], order[:TESTED])
    ]
    return bptt.Labelled.of(**parts[0], validation=parts[1])


def accuracy(data: bptt.Labelled, shape: dict[str, Any], seed: int, epochs: int) -> float:
    """Train a network; return the share of the test's digits that it tells."""
    torch.manual_seed(seed)
    net = bptt.Network(
        data.likelihood, inputs=data.inputs, hidden=HIDDEN, recurrence="hidden", **shape
    )
    updates = epochs * len(data.training_batches(BATCH, None, seed))
    settings = bptt.Settings(
        batch=BATCH, max_updates=updates, validate_every=updates, clip=CLIP, keep="last"
    )

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, updates, pct_start=0.1)

    done = bptt.fit(net, data, settings, schedule=schedule, seed=seed, progress=False)
    assert done.score is not None
    return 1 - done.score


def main() -> None:
    """Train every network with every seed; print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{options.epochs} epochs, {options.seeds} seeds; test accuracy, mean (least to most)")
    data = digits()
    for name, shape in SETTINGS.items():
        began = time.perf_counter()
        shares = [accuracy(data, shape, seed, options.epochs) for seed in range(options.seeds)]
        seconds = time.perf_counter() - began
        print(
            f"{name:40} {statistics.mean(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})  "
            f"{seconds:4.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
