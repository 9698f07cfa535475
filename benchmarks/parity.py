"""What W can do and R cannot, on two tasks of parity; and the time that R saves.

Delayed parity, yᵗ = xᵗ⁻¹ ⊕ xᵗ⁻²: past outputs do not tell the state. Running parity,
yᵗ = xᵗ ⊕ yᵗ⁻¹: the output is the state. Bits x are drawn anew at every training step.

    python benchmarks/parity.py
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import bptt

RECURRENCES = ("hidden", "output", "both")
T, B, HIDDEN, STEPS, LEARNING_RATE, SEEDS = 50, 32, 64, 600, 3e-3, (0, 1, 2)
HELD_OUT, TEST_SEED = 1000, 1000
TIMED = ("hidden", "output")
LENGTHS, WIDTHS, ROUNDS = (20, 200, 2000, 20_000), (128, 512), 11


class Batch(NamedTuple):
    """Bits, (T, B), and the weights of the losses, 0 where the target cannot be known."""

    y: Tensor
    x: Tensor
    weights: Tensor


class Task(NamedTuple):
    """What y is, given x; the first `skipped` targets do not count."""

    name: str
    target: Callable[[Tensor], Tensor]
    skipped: int

    def batch(self, T: int, B: int, generator: torch.Generator | None = None) -> Batch:
        """Draw uniform bits x, and y for them."""
        x = torch.randint(2, (T, B), generator=generator)
        weights = torch.ones(T, B)
        weights[: self.skipped] = 0
        return Batch(self.target(x), x, weights)


class Trained(NamedTuple):
    """The loss of every training step, and what the network does on held-out sequences."""

    curve: list[float]
    nll: float
    accuracy: float
    own_accuracy: float  # with its own outputs fed back


def delayed_parity(x: Tensor) -> Tensor:
    """Return yᵗ = xᵗ⁻¹ ⊕ xᵗ⁻², and 0 in the first two steps."""
    y = torch.zeros_like(x)
    y[2:] = x[1:-1] ^ x[:-2]
    return y


def running_parity(x: Tensor) -> Tensor:
    """Return yᵗ = xᵗ ⊕ yᵗ⁻¹, with y⁰ = 0."""
    return x.cumsum(0) % 2


TASKS = (
    Task("delayed parity", delayed_parity, skipped=2),
    Task("running parity", running_parity, skipped=0),
)


def network(recurrence: str, hidden: int) -> bptt.Network:
    """Return a network that reads bits and models bits."""
    return bptt.Network(
        bptt.Categorical(2), inputs=bptt.Tokens(2), hidden=hidden, recurrence=recurrence
    )


def trainer(net: bptt.Network) -> Callable[[Batch], float]:
    """Return a training step, which returns its loss."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        done = bptt.backward(net, batch.y, x=batch.x, loss_weights=batch.weights)
        optimizer.step()
        return float(done.loss)

    return step


def train(task: Task, recurrence: str, seed: int) -> Trained:
    """Train a network on fresh sequences, then test it on others."""
    torch.manual_seed(seed)
    net, bits = network(recurrence, HIDDEN), torch.Generator().manual_seed(seed)
    step = trainer(net)
    curve = [step(task.batch(T, B, bits)) for _ in range(STEPS)]
    y, x, _ = task.batch(T, HELD_OUT, torch.Generator().manual_seed(TEST_SEED))
    with torch.no_grad():
        out = net(y, x=x)
    own = net.generate(T, x=x, temperature=0)

    def accuracy(said: Tensor) -> float:
        return float((said == y)[task.skipped :].float().mean())

    nll = float(out.nll[task.skipped :].mean())
    return Trained(curve, nll, accuracy(out.outputs.argmax(-1)), accuracy(own))


def best_nll(task: Task) -> float:
    """Return H(yᵗ | xᵗ, yᵗ⁻¹), in nats: the least NLL of RNN 2, which sees no more than these.

    Counted over all sequences of four bits, at the last of which both tasks are stationary.
    """
    x = (torch.arange(16) >> torch.arange(4).unsqueeze(1)) & 1
    y = task.target(x)
    seen_and_y = 4 * x[-1] + 2 * y[-2] + y[-1]
    joint = torch.bincount(seen_and_y, minlength=8).view(4, 2).double() / 16
    seen = joint.sum(1, keepdim=True)
    return float((seen * torch.special.entr(joint / seen)).sum())


def check() -> None:
    """Raise unless the tasks are what they claim, and RNN 2 alone needs no step but the last."""
    delayed, running = TASKS
    assert math.isclose(best_nll(delayed), math.log(2))
    assert best_nll(running) == 0
    y, x, _ = delayed.batch(9, 5)
    for recurrence in RECURRENCES:
        net = network(recurrence, 8)
        whole = net(y, x=x).nll[-1]
        alone = net(y[-1:], x=x[-1:], state=bptt.State(y=y[-2])).nll[0]
        assert torch.allclose(whole, alone) == (recurrence == "output")


def times(T: int, hidden: int) -> dict[str, list[float]]:
    """Return seconds per training step on one sequence of running parity; the two take turns."""
    batch = TASKS[1].batch(T, 1)
    steps = {name: trainer(network(name, hidden)) for name in TIMED}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(batch)
            if i > 0:
                found[name].append(time.perf_counter() - began)
    return found


def main() -> None:
    """Check, train and time."""
    torch.manual_seed(0)
    check()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"held-out, seeds {SEEDS}: nats per step, accuracy, accuracy on its own outputs")
    for task in TASKS:
        for recurrence in RECURRENCES:
            runs = [train(task, recurrence, seed) for seed in SEEDS]
            nll = " ".join(f"{run.nll:.4f}" for run in runs)
            forced = " ".join(f"{run.accuracy:6.1%}" for run in runs)
            own = " ".join(f"{run.own_accuracy:6.1%}" for run in runs)
            print(f"{task.name:15} {recurrence:7} {nll}  {forced}  {own}", flush=True)
        print(f"{task.name:15} the best that RNN 2 can do: {best_nll(task):.4f}")
    for hidden in WIDTHS:
        for T in LENGTHS:
            found = times(T, hidden)
            ms = [f"{name} {1000 * statistics.median(found[name]):7.2f} ms" for name in TIMED]
            ratios = [a / b for a, b in zip(found["hidden"], found["output"], strict=True)]
            ratio = f"ratio {statistics.median(ratios):.2f}"
            print(f"H = {hidden}, T = {T:6,}, B = 1: ", *ms, ratio, flush=True)


if __name__ == "__main__":
    main()
