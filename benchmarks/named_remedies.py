"""Whether the remedies that a verdict names do what they are named for: a longer horizon.

    python benchmarks/named_remedies.py [--seeds 5] [--out DIR]

A network is trained on the temporal order task until its gradient is said to vanish, as it does
from a start with small weights. Then a network with each remedy that its verdict names, by the
options as they stand there, is trained for as many updates from the same seeds; what counts is over
how many steps a tenth of a typical gradient is left, without and with it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from pathlib import Path

import numpy as np
import torch

import bptt
from bptt import advice
from bptt.training.compare import Comparison, compare, comparison_of_flags

LENGTH, UPDATES, LEFT = 60, 300, 0.1
COMMON = f"--length {LENGTH} --hidden 32 --init gaussian --learning-rate 0.001"
COMMON += f" --max-updates {UPDATES} --no-stop-when-solved"


def reach(run: bptt.Run) -> int:
    """Return up to which lag a tenth of a typical gradient is left."""
    flow = bptt.diagnose_run(run).flow
    assert flow is not None
    left = flow.typical_by_lag / flow.typical_by_lag[0] >= LEFT
    return int(np.flatnonzero(left)[-1])


def reaches(what: Comparison, folder: Path) -> dict[str, list[int]]:
    """Train every setting with every seed; return how far back their gradients reach."""
    compare(what, folder)
    found: dict[str, list[int]] = {}
    for job in what.jobs(folder):
        found.setdefault(job.name, []).append(reach(bptt.Run.open(job.folder)))
    return found


def main() -> None:
    """Run what is left; print the table, and fail if a remedy does not help."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="runs/named_remedies")
    options = parser.parse_args()
    folder = Path(options.out)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    plain = comparison_of_flags("task:order", ["none:"], COMMON, options.seeds)
    (before,) = reaches(plain, folder / "none").values()
    first = plain.jobs(folder / "none")[0].folder
    flow = bptt.diagnose_run(bptt.Run.open(first)).flow
    assert flow is not None
    assert flow.verdict == "vanishing"
    print(f"without: a tenth is left {statistics.median(before):.0f} steps back; {before}")
    failed = []
    for i, remedy in enumerate(advice(flow)):
        what = comparison_of_flags("task:order", [f"it: {remedy.options}"], COMMON, options.seeds)
        (after,) = reaches(what, folder / f"remedy-{i}").values()
        longer = sum(a > b for a, b in zip(after, before, strict=True))
        print(
            f"{remedy.options:28} {statistics.median(after):4.0f} steps; farther with {longer} of "
            f"{options.seeds} seeds; {after}",
            flush=True,
        )
        if longer < options.seeds:
            failed.append(remedy.options)
    if failed:
        raise SystemExit(f"not farther with every seed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
