"""What feeding back costs: teacher forcing, free runs and closed loops, next to plain torch.

    python benchmarks/forcing.py

All sides take turns in one run; medians, and ratios to what was asked for.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import bptt

H, ROUNDS = 128, 7
Job = Callable[[], object]


def medians(jobs: dict[str, Job], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median seconds of each job; they take turns, and the first does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def gradient(net: bptt.Network, y: Tensor, **how: object) -> Job:
    """Return a job that takes one gradient."""

    def job() -> None:
        net.zero_grad()
        bptt.backward(net, y, **how)  # type: ignore[arg-type]

    return job


def plain_loop(y: Tensor) -> Job:
    """Return the training step of an RNN 2 on numbers, as a loop over steps in plain torch."""
    d = y.shape[2]
    enter, readout = nn.Linear(d, H), nn.Linear(H, d)

    def job() -> None:
        previous, loss = torch.zeros_like(y[0]), torch.zeros(())
        for now in y:
            o = readout(torch.tanh(enter(previous)))
            loss = loss + 0.5 * (now - o).square().sum()
            previous = now
        loss.backward()

    return job


CELLS: dict[str, type[nn.Module]] = {"tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


def plain_run(cell: str, steps: int, n: int) -> Job:
    """Return a free run of a cell in plain torch."""
    embedding, move, readout = nn.Embedding(n, H), CELLS[cell](H, H), nn.Linear(H, n)

    @torch.no_grad()
    def job() -> None:
        h, y = torch.zeros(1, H), torch.zeros(1, dtype=torch.int64)
        state = (h, h) if cell == "lstm" else h
        for _ in range(steps):
            state = move(embedding(y), state)
            h = state[0] if isinstance(state, tuple) else state
            y = torch.multinomial(torch.softmax(readout(h), -1), 1)[:, 0]

    return job


def output_recurrence() -> None:
    """Print a training step's time of each recurrence on a long series."""
    T, d, of_plain = 100_000, 8, 2_000
    y = torch.randn(T, 1, d)
    nets = {r: bptt.Network(bptt.Gaussian(d), hidden=H, recurrence=r) for r in ("output", "both")}
    jobs = {recurrence: gradient(net, y) for recurrence, net in nets.items()}
    jobs["plain torch"] = plain_loop(y[:of_plain])
    found = medians(jobs)
    found["plain torch"] *= T / of_plain
    print(f"\na training step, T = {T:,}, B = 1, H = {H}, Gaussian({d})")
    row('recurrence "output"', found["output"], "ms")
    row('recurrence "both"', found["both"], "ms", found["both"] / found["output"], "at least 4")
    plain = found["plain torch"]
    name = f"a loop in torch, {T // of_plain} x {of_plain:,}"
    row(name, plain, "ms", plain / found["output"], "at least 20")


def free_run() -> None:
    """Print the time of a step of a free run, sampling included."""
    n, steps = 100, 2_000
    print(f"\na step of a free run, B = 1, H = {H}, n = {n} symbols")
    for cell, theirs in CELLS.items():
        net = bptt.Network(bptt.Categorical(n), hidden=H, cell=cell)
        jobs: dict[str, Job] = {"ours": partial(net.generate, steps)}
        jobs["plain"] = plain_run(cell, steps, n)
        found = medians(jobs)
        row(f"bptt, generate, {cell}", found["ours"] / steps, "us")
        ratio = found["plain"] / found["ours"]
        name = f"{theirs.__name__} and multinomial"
        row(name, found["plain"] / steps, "us", ratio, "at least 10")


def scheduled_sampling() -> None:
    """Print what half of the steps cost that are not forced."""
    T, B, n = 100, 32, 65
    net, y = bptt.Network(bptt.Categorical(n), hidden=H), torch.randint(n, (T, B))
    jobs = {
        "forcing 1": gradient(net, y),
        "forcing 0.5, samples": gradient(net, y, forcing=0.5),
        "forcing 0.5, means": gradient(net, y, forcing=0.5, feedback="mean"),
    }
    found = medians(jobs, 3 * ROUNDS)
    print(f"\na training step, T = {T}, B = {B}, H = {H}, n = {n} symbols")
    for (name, seconds), asked in zip(found.items(), ("", "at most 2.5", "at most 3"), strict=True):
        row(name, seconds, "ms", seconds / found["forcing 1"], asked)


def row(name: str, seconds: float, unit: str, ratio: float = 1.0, asked: str = "") -> None:
    """Print a time, and its ratio to another."""
    scale = {"ms": 1e3, "us": 1e6}[unit]
    print(f"  {name:26} {seconds * scale:9.2f} {unit}  x {ratio:6.2f}  {asked}".rstrip())


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    output_recurrence()
    free_run()
    scheduled_sampling()
