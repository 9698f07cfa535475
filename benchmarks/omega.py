"""What Ω costs: a training step with it, next to clipping alone.

    python benchmarks/omega.py

Both take turns in one run; medians. First Ω's gradient is checked to be there.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import torch

import bptt
from bptt.training.remedies import Omega

SIZES = [(100, 20, 50), (200, 20, 50), (200, 20, 100), (200, 32, 256)]
ROUNDS, ASKED = 41, 1.2


def job(task: bptt.Task, net: bptt.Network, B: int, omega: float) -> float:
    """Take one training step; return its seconds."""
    batch = task.training_batches(B, None, 0).get(0, 0)
    y, x, weights = batch.y, batch.x, batch.weights
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-9)
    began = time.perf_counter()
    optimizer.zero_grad()
    if omega > 0:
        with Omega(net, omega, sequences=B):
            bptt.backward(net, y, x=x, loss_weights=weights)
    else:
        bptt.backward(net, y, x=x, loss_weights=weights)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return time.perf_counter() - began


def measure(T: int, B: int, H: int) -> tuple[float, float]:
    """Return the median seconds of a step without and with Ω."""
    torch.manual_seed(0)
    task = bptt.Task.parse("order", T)
    start = bptt.Initial(W="gaussian", radius=1.0)
    net = bptt.Network(
        task.likelihood, inputs=task.inputs, hidden=H, recurrence="hidden", init=start
    )
    times: dict[float, list[float]] = {0.0: [], 1.0: []}
    for _ in range(ROUNDS):
        for omega, some in times.items():
            some.append(job(task, net, B, omega))
    plain, with_omega = (statistics.median(some[1:]) for some in times.values())
    return plain, with_omega


def check() -> None:
    """Raise unless Ω adds to W's gradient."""
    task = bptt.Task.parse("order", 20)
    net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=8, recurrence="hidden")
    y, x, *_ = task.training_batches(4, None, 0).get(0, 0)
    grads = []
    for weight in (0.0, 1.0):
        net.zero_grad()
        with Omega(net, weight, sequences=4):
            bptt.backward(net, y, x=x)
        grad = net.recurrent.get_parameter("weight_hh_l0").grad
        assert grad is not None
        grads.append(grad.clone())
    if torch.allclose(grads[0], grads[1]):
        raise SystemExit("Ω has added nothing")


def main() -> None:
    """Check, measure and print."""
    check()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, float32")
    print(f"a training step of the order task, one tanh layer; asked: at most {ASKED} times")
    print(f"{'T':>5} {'B':>4} {'H':>4}  clipping     and Ω   times")
    for T, B, H in SIZES:
        plain, with_omega = measure(T, B, H)
        ratio = with_omega / plain
        print(
            f"{T:>5} {B:>4} {H:>4}  {plain * 1e3:5.2f} ms  {with_omega * 1e3:5.2f} ms   {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
