"""What many processes bring: predicted from one process's compute and a ring's sum of gradients.

    python benchmarks/scaling.py [--hidden 128,256,512,1024,2048,4096] [--updates 20]

    seconds per update = compute(H, B / N) + 2 (N − 1) (latency + bytes / (N · bandwidth))

compute is a + c · columns for each H, from updates of `bptt.fit` with two numbers of columns on one
thread; latency and bandwidth are those of a network that is assumed, and for two processes here
those of gloo, measured. Two processes of one thread are then timed against one, at H = 256 and
B = 64.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import bptt

T, SYMBOLS, COLUMNS = 100, 64, 1024
RANKS = (1, 4, 16, 64, 256, 1024)
NETWORKS = {"10 Gbit/s": (50e-6, 10e9 / 8), "100 Gbit/s": (10e-6, 100e9 / 8)}
"""Of each its latency in seconds, and its bandwidth in bytes per second."""
HERE, ASKED = (256, 64), 1.7


def seconds_per_update(H: int, B: int, updates: int) -> float:
    """Return the median time of an update, here or in all processes of the group."""
    torch.manual_seed(0)
    data = bptt.Collection.of(list(np.random.default_rng(0).integers(SYMBOLS, size=(4 * B + 8, T))))
    net = bptt.Network(data.likelihood, hidden=H, recurrence="both")
    at = [time.perf_counter()]
    settings = bptt.Settings(
        batch=B, max_updates=updates, validate_every=updates + 1, keep="last", window=None
    )
    bptt.fit(
        net, data, settings, on_update=lambda _: at.append(time.perf_counter()), progress=False
    )
    return float(np.median(np.diff(at)[2:]))


def parameters(H: int) -> int:
    """Return how many a network of that size has."""
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=H, recurrence="both")
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def ring(ranks: int, size: float, latency: float, bandwidth: float) -> float:
    """Return the seconds of a sum over ranks of so many bytes."""
    return 2 * (ranks - 1) * (latency + size / (ranks * bandwidth))


def work(rank: int, folder: str, updates: int) -> None:
    """Be one of two processes: time gloo's sum of few and of many bytes, and a training."""
    torch.set_num_threads(1)
    file = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    sums = []
    for count in (1, parameters(HERE[0])):
        numbers, times = torch.zeros(count), []
        for _ in range(100):
            began = time.perf_counter()
            dist.all_reduce(numbers)
            times.append(time.perf_counter() - began)
        sums.append(statistics.median(times))
    seconds = seconds_per_update(*HERE, updates)
    if rank == 0:
        torch.save([*sums, seconds], Path(folder) / "two.pt")
    dist.barrier()
    os._exit(0)  # at the interpreter's own end torch's threads for gloo sometimes abort


def work_apart(rank: int, folder: str, updates: int) -> None:
    """Be one of two processes that train half of the columns each, and tell each other nothing."""
    torch.set_num_threads(1)
    seconds = seconds_per_update(HERE[0], HERE[1] // 2, updates)
    torch.save([seconds], Path(folder) / f"apart-{rank}.pt")


def two(target: Callable[[int, str, int], None], folder: str, updates: int) -> None:
    """Let two processes run side by side."""
    spawn = get_context("spawn")
    ranks = [spawn.Process(target=target, args=(rank, folder, updates)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"a process ended with status {process.exitcode}: see above")


def main() -> None:
    """Measure, predict, and check the prediction for two processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", default="128,256,512,1024,2048,4096")
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; T = {T}")
    print(f"an update of {COLUMNS:,} columns, predicted, and how many times as fast as one rank's")
    print(f"{'H':>5} {'network':>10}", *(f"{f'{N:,} ranks':>19}" for N in RANKS), sep="  ")
    for H in map(int, options.hidden.split(",")):
        few, many = (seconds_per_update(H, B, 3 + options.updates // 4) for B in (2, 16))
        slope = (many - few) / 14
        for name, network in NETWORKS.items():
            size = 4 * parameters(H)
            totals = [few + slope * (COLUMNS / N - 2) + ring(N, size, *network) for N in RANKS]
            cells = [f"{total:9.4f} s {totals[0] / total:5.1f} ×" for total in totals]
            print(f"{H:5,} {name:>10}", *cells, sep="  ", flush=True)
    one, half = (seconds_per_update(HERE[0], B, options.updates) for B in (HERE[1], HERE[1] // 2))
    with tempfile.TemporaryDirectory() as folder:
        two(work_apart, folder, options.updates)
        two(work, folder, options.updates)
        small, large, both = torch.load(Path(folder) / "two.pt")
        apart = max(torch.load(Path(folder) / f"apart-{rank}.pt")[0] for rank in (0, 1))
    predicted = half + large + 2 * small  # the sum of the gradients, and two meetings before it
    print(f"gloo, two processes: {1e6 * small:.0f} µs for 4 bytes, {1e3 * large:.2f} ms for all")
    print(f"H = {HERE[0]}, B = {HERE[1]}: one process {1e3 * one:.1f} ms, two {1e3 * both:.1f} ms")
    print(f"two processes of half each, that tell each other nothing: {1e3 * apart:.1f} ms")
    print(f"two processes: predicted {one / predicted:.2f} ×, measured {one / both:.2f} ×")
    if one / both < ASKED:
        raise SystemExit(f"two processes bring {one / both:.2f} ×; asked are {ASKED} ×")


if __name__ == "__main__":
    main()
