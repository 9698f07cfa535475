"""The temporal order task of Pascanu, Mikolov and Bengio 2013, with and without their remedies.

    python benchmarks/published/temporal_order.py [--lengths 50,100] [--seeds 5] [--out DIR]

50 tanh units, batches of 20, the gradient's norm clipped to 1, as there. "plain" is theirs without
Ω: weights from N(0, 0.1²), gradient descent with a learning rate of 0.01. "omega" has Ω with their
weight, 4, but Adam with a learning rate of 0.0003 in place of plain gradient descent, W scaled to a
spectral radius of 1, and the other weights from N(0, 0.01²). A run counts as solved when fewer than
1 of 100 of 2,000 held-out sequences are wrong, and is given up after UPDATES updates. What is
interrupted goes on.

Then networks are trained on sequences of 50 to 200 steps, mixed, and tested on longer ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

import bptt
from bptt.training.compare import Comparison, Outcome, compare

UPDATES = {"plain": 20_000, "omega": 60_000}
PAPER = "plain gradient descent fails as the length grows; with clipping and Ω, 5 of 5 at each"
COMMON = {"hidden": 50, "init": "gaussian", "batch": 20, "clip": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": "sgd", "learning-rate": 0.01, "init-std": 0.1},
    "omega": {"learning-rate": 0.0003, "omega": 4, "radius": 1.0, "init-std": 0.01},
}
LENGTHS = "10,20,30,50,100,150,200"
MIXED, UPDATES_MIXED, MIXED_SEEDS = "50-200", 80_000, 3
TESTED = (50, 100, 150, 200, 300, 500, 1000, 2000, 5000)


def asked(length: int, seeds: int) -> Comparison:
    """Return the comparison at one length."""
    settings = {name: {**flags, "max-updates": UPDATES[name]} for name, flags in SETTINGS.items()}
    return Comparison("task:order", tuple(range(seeds)), {**COMMON, "length": length}, settings)


def line(length: int, name: str, outcomes: list[Outcome]) -> str:
    """Return a row of the table."""
    some = [one for one in outcomes if one.name == name]
    solved = [one for one in some if one.solved]
    updates = sorted(one.updates for one in solved)
    typical = f"{updates[len(updates) // 2]:,}" if updates else "none"
    minutes = sum(one.seconds for one in some) / 60
    return f"{length:>6}  {name:6} {len(solved)} of {len(some)}  {typical:>8}  {minutes:8.1f}"


def generalise(folder: Path) -> None:
    """Train on mixed lengths, a network a seed; print how they do on these and on longer ones."""
    flags = {**COMMON, **SETTINGS["omega"], "length": MIXED, "max-updates": UPDATES_MIXED}
    settings = {"omega": {"stop-when-solved": False}}
    what = Comparison("task:order", tuple(range(MIXED_SEEDS)), flags, settings)
    outcomes = compare(what, folder)
    updates = ", ".join(f"{one.updates:,}" for one in outcomes)
    print(f"{UPDATES_MIXED:,} updates on lengths {MIXED}, solved at the longest after {updates}")
    print("length  wrong, by seed")
    nets = [bptt.Run.open(job.folder).network() for job in what.jobs(folder)]
    for length in TESTED:
        task = bptt.Task.parse("order", length)
        print(f"{length:>6}  {'  '.join(f'{task.score(net):6.2%}' for net in nets)}", flush=True)


def main() -> None:
    """Run what is left, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default=LENGTHS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="runs/published/temporal_order")
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    caps = ", ".join(f"{most:,} ({name})" for name, most in UPDATES.items())
    print(f"paper: {PAPER}; here at most {caps} updates")
    print("length  side   solved  updates to success (median)  minutes, all runs")
    for length in map(int, options.lengths.split(",")):
        folder = Path(options.out) / f"length-{length}"
        outcomes = compare(asked(length, options.seeds), folder)
        for name in SETTINGS:
            print(line(length, name, outcomes), flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes by the clock, this time")
    generalise(Path(options.out) / "mixed")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes by the clock, in all")


if __name__ == "__main__":
    main()
