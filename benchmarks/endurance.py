"""Whether a long training's memory stays as it is (Linux).

    python benchmarks/endurance.py [--updates 200000]

A network of 8 tanh units learns the built-in text, with validations and checkpoints on the way. The
memory is the process's own (resident, less what it shares), each hundredth of the way; compared are
the medians of the second and of the last quarter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

import bptt
from bptt.training.updates import Update

MOST_GROWTH, LOOKS = 0.02, 100


def private_memory() -> int:
    """Return the bytes that this process alone has in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = (line.split() for line in lines if line.startswith("Private"))
    return sum(1024 * int(size) for _, size, _ in sizes)


def main() -> None:
    """Train, look at the memory, and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=200_000)
    options = parser.parse_args()
    if options.updates < LOOKS:
        parser.error(f"--updates is {options.updates}; expected at least {LOOKS}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    text, sizes = bptt.read_text(), list[int]()
    net = bptt.Network(text.likelihood, hidden=8)
    settings = bptt.Settings(
        batch=4, window=10, max_updates=options.updates, validate_every=options.updates // 50
    )

    def look(update: Update) -> None:
        if update.number % (options.updates // LOOKS) == 0:
            sizes.append(private_memory())

    with tempfile.TemporaryDirectory() as folder:
        done = bptt.fit(
            net, text, settings, out=Path(folder) / "run", on_update=look, progress=False
        )
    quarters = [sizes[len(sizes) * k // 4 : len(sizes) * (k + 1) // 4] for k in range(4)]
    medians = [statistics.median(quarter) for quarter in quarters]
    growth = medians[3] / medians[1] - 1
    print(f"{done.updates:,} updates in {done.seconds:.0f} s; private memory by quarter, MB:")
    print(*(f"{size / 1e6:.1f}" for size in medians))
    print(f"the last quarter against the second: {growth:+.2%}")
    if growth > MOST_GROWTH:
        raise SystemExit(f"it grew by {growth:.2%}; asked are at most {MOST_GROWTH:.0%}")


if __name__ == "__main__":
    main()
