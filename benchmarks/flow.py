"""What it takes to take a gradient apart by lag: time and peak memory of bptt.gradient_flow.

    python benchmarks/flow.py

Each case in a fresh process (Linux), the median of three; first it is checked against
bptt.backward, truncated to a window with stride 1.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peak import Cost, Prepared, cost
from torch import Tensor

import bptt

SYMBOLS, CHECKED, ROUNDS = 65, 20, 3


class Case(NamedTuple):
    """A size, and what was asked for it: seconds, and bytes if any."""

    T: int
    B: int
    H: int
    max_lag: int | None
    cell: str
    seconds: float | None
    memory: float | None


CASES = [
    Case(256, 16, 256, None, "tanh", 2.5, 600e6),
    Case(1000, 8, 128, 100, "tanh", 1.0, None),
    Case(256, 16, 128, None, "gru", None, None),
    Case(256, 16, 128, None, "lstm", None, None),
]


def make(case: Case) -> tuple[bptt.Network, Tensor]:
    """Return a network whose gradient does not die out, so that every lag has to be computed."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=case.H, cell=case.cell)
    with torch.no_grad():
        net.recurrent.get_parameter("weight_ih_l0").mul_(0.03)
    return net, torch.randint(SYMBOLS, (case.T, case.B))


def job(case: Case) -> tuple[Prepared, Prepared]:
    """Return a warm-up and the call."""
    net, y = make(case)

    def call() -> bptt.GradientFlow:
        return bptt.gradient_flow(net, y, max_lag=case.max_lag)

    return call, call


def check(case: Case) -> None:
    """Raise unless the error of a window is that of the gradient truncated to it."""
    net, y = make(case)
    flow = bptt.gradient_flow(net, y, max_lag=case.max_lag)

    def gradient(**how: Any) -> Tensor:
        net.zero_grad()
        bptt.backward(net, y, reduction="sum", **how)
        grads = [p.grad.flatten() for p in net.recurrent.parameters() if p.grad is not None]
        return torch.cat(grads)

    exact = gradient()
    error = float((gradient(window=CHECKED, stride=1) - exact).norm() / exact.norm())
    if abs(flow.truncation_error[CHECKED] - error) > 1e-3 * error + 1e-5:
        raise SystemExit(f"{case}: the flow says {flow.truncation_error[CHECKED]}, not {error}")


def main() -> None:
    """Check, measure and print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, float32")
    print(f"{'T':>6} {'B':>4} {'H':>4} {'lags':>5} cell   seconds      MB   asked")
    measure: Callable[..., Cost] = cost
    for case in CASES:
        check(case)
        costs = [measure(job, case) for _ in range(ROUNDS)]
        seconds = statistics.median(one.seconds for one in costs)
        memory = statistics.median(one.memory for one in costs)
        lags = case.T if case.max_lag is None else case.max_lag + 1
        asked = "" if case.seconds is None else f"under {case.seconds} s"
        asked += "" if case.memory is None else f" and {case.memory / 1e6:.0f} MB"
        print(
            f"{case.T:>6} {case.B:>4} {case.H:>4} {lags:>5} {case.cell:5} {seconds:8.2f} "
            f"{memory / 1e6:7.0f}   {asked}"
        )


if __name__ == "__main__":
    main()
