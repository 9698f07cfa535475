"""Tasks with long dependencies, and which remedies solve them.

    python benchmarks/published/tasks.py adding [--seeds 3] [--out DIR]
    python benchmarks/published/tasks.py copy

"adding": the sum of two marked numbers among 200 (Hochreiter and Schmidhuber 1997; Le, Jaitly and
Hinton 2015, where a vanilla network with an identity start learns it at 150 to 400 steps, and fails
without). Solved: a mean squared error below 0.01 on 2,000 held-out sequences; the mean alone has
0.167. "copy": ten symbols, to be said again 100 steps later (Hochreiter and Schmidhuber 1997;
Arjovsky, Shah and Bengio 2016, where LSTMs do no better than without memory). Solved: a tenth of
the loss without memory, 10 · ln 8 / 120 nats a step.

Every network has 128 units; Adam, batches of 20, the gradient's norm clipped to 1.
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
from bptt.training.compare import Comparison, compare

Settings = dict[str, dict[str, Any]]

COMMON: dict[str, Any] = {"hidden": 128, "batch": 20, "clip": 1}
ADDING: Settings = {
    "tanh": {},
    "tanh + omega": {"init": "gaussian", "init-std": 0.01, "radius": 1.0, "omega": 4},
    "tanh + learned leaks": {"leak": "0.005,0.9", "learn-leak": True},
    "tanh + skips 10-50-100": {"skips": "10,50,100"},
    "relu + identity": {"cell": "relu", "init": "identity"},
    "gru": {"cell": "gru"},
}
COPY: Settings = {
    "tanh": {},
    "relu + identity": {"cell": "relu", "init": "identity"},
    "tanh + skips 10-50-100": {"skips": "10,50,100"},
    "tanh + skip 110": {"skips": "110"},
    "gru + chrono": {"cell": "gru", "chrono": 120},
}
TASKS: dict[str, tuple[int, int, Settings, dict[str, Any]]] = {
    "adding": (200, 15_000, ADDING, {"learning-rate": 0.0003, "scale": "fixed"}),
    "copy": (100, 10_000, COPY, {"learning-rate": 0.001}),
}


def main() -> None:
    """Run what is left, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/published")
    options = parser.parse_args()
    length, updates, settings, more = TASKS[options.task]
    common = {**COMMON, **more, "length": length, "max-updates": updates}
    what = Comparison(f"task:{options.task}", tuple(range(options.seeds)), common, settings)
    began = time.perf_counter()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    folder = Path(options.out) / options.task
    outcomes = compare(what, folder)
    solved, baseline = bptt.Task.parse(options.task, length).criterion[1:]
    print(f"{what.data}, length {length}, at most {updates:,} updates, {options.seeds} seeds")
    print(f"solved below {solved:.4g}; without memory {baseline:.4g}")
    print("setting                   solved  updates (median)  held out, by seed       minutes")
    for name in settings:
        some = [one for one in outcomes if one.name == name]
        needed = sorted(one.updates for one in some if one.solved)
        typical = f"{needed[len(needed) // 2]:,}" if needed else "none"
        held_out = [last_score(folder / name / f"seed-{one.seed}") for one in some]
        print(
            f"{name:24}  {len(needed)} of {len(some)}  {typical:>16}  "
            f"{', '.join(f'{value:.4f}' for value in held_out):22}  "
            f"{sum(one.seconds for one in some) / 60:7.1f}"
        )
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes by the clock, this time")


def last_score(folder: Path) -> float:
    """Return what the criterion measured at a run's end."""
    rows = [row for row in bptt.Run.open(folder).metrics() if "score" in row]
    return float(rows[-1]["score"])


if __name__ == "__main__":
    main()
