"""A machine whose cores are taken: `bptt train`, and a layer's training step, beside busy loops.

    python benchmarks/busy.py [--rounds 3] [--steps 400]

As many processes as there are cores count without end. `bptt train` is timed as a whole, with the
short spin that it sets, and with libgomp's own; layers in a process that sets nothing, as a
library's user has it, against torch.nn's. Medians of rounds; idle and busy in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = {"short spin": {}, "libgomp's own spin": {"GOMP_SPINCOUNT": "300000"}}
SHAPE = (100, 32, 64, 128)  # T, B, I, H
CELLS = ("RNN", "GRU", "LSTM")
STEP = """
import statistics, sys, time, torch, bptt
package, cell, *shape = sys.argv[1:]
T, B, I, H = map(int, shape)
layer = getattr({"torch": torch.nn, "bptt": bptt}[package], cell)(I, H)
x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
times = []
end = time.perf_counter() + 2
while len(times) < 3 or time.perf_counter() < end:
    began = time.perf_counter()
    torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], grad)
    times.append(time.perf_counter() - began)
print(statistics.median(times[1:]))
"""


@contextmanager
def busy() -> Iterator[None]:
    """Keep every core busy."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def idle() -> Iterator[None]:
    """Leave the cores alone."""
    yield


def unset_environment() -> dict[str, str]:
    """Return the environment without what says how long threads wait for work."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    return {k: v for k, v in os.environ.items() if k not in names}


def train(steps: int, settings: dict[str, str]) -> float:
    """Return the seconds that a whole `bptt train` takes."""
    environment = unset_environment() | settings
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "bptt",
            "train",
            "--max-updates",
            str(steps),
            "--out",
            "run",
        ]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def step(package: str, cell: str) -> float:
    """Return the median seconds of a training step, in a process of its own."""
    environment = unset_environment()
    command = [sys.executable, "-c", STEP, package, cell, *map(str, SHAPE)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Print idle and busy times of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores\n\nbptt train --max-updates {options.steps}, s: idle, busy, ratio"
    )
    for name, settings in SPINS.items():
        times: dict[str, list[float]] = {"idle": [], "busy": []}
        for _ in range(options.rounds):
            for load in (idle, busy):
                with load():
                    times[load.__name__].append(train(options.steps, settings))
        quiet, loaded = (statistics.median(some) for some in times.values())
        print(f"{name:22}{quiet:8.1f}{loaded:8.1f}{loaded / quiet:8.2f}", flush=True)
    print(
        f"\na training step at T, B, I, H = {SHAPE}, ms: bptt and torch.nn idle, both busy, ratio"
    )
    for cell in CELLS:
        taken: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            for load in (idle, busy):
                for package in ("bptt", "torch"):
                    with load():
                        taken.setdefault((load.__name__, package), []).append(step(package, cell))
        values = [1e3 * statistics.median(some) for some in taken.values()]
        text = "".join(f"{value:10.1f}" for value in values)
        print(f"{cell:10}{text}{values[3] / values[2]:10.2f}", flush=True)


if __name__ == "__main__":
    main()
