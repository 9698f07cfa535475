"""bptt.RNN and bptt.GRU next to torch.nn's: a training step, forward and backward, of one layer.

Checks values and all gradients against torch first, then times the two in turns; medians. Gradients
of input, weights and biases; float32.

    python benchmarks/layers.py [--threads 1]
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import bptt

# T, B, I, H
SHAPES = [
    (100, 1, 10, 32),
    (100, 16, 10, 64),
    (256, 32, 64, 128),
    (256, 64, 64, 256),
    (1000, 32, 10, 256),
    (256, 64, 128, 512),
    (64, 64, 512, 1024),
]
ROUNDS = 7


def training_step(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Return a function that runs forward and backward and returns output and gradients."""
    wanted = [x, *layer.parameters()]

    def step() -> list[Tensor]:
        output = layer(x)[0]
        return [output, *torch.autograd.grad(output, wanted, grad)]

    return step


def compare(ours: type[nn.Module], theirs: type[nn.Module], shape: tuple[int, ...]) -> float:
    """Check, time, print a line, and return how many times faster ours is."""
    T, B, I, H = shape  # noqa: E741
    torch.manual_seed(0)
    layers = {"torch": theirs(I, H), "bptt": ours(I, H)}
    layers["bptt"].load_state_dict(layers["torch"].state_dict())
    x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H) / T
    steps = {name: training_step(layer, x, grad) for name, layer in layers.items()}
    for mine, its in zip(steps["bptt"](), steps["torch"](), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["torch"], times["bptt"], strict=True))
    name = theirs.__name__
    print(f"{name} {shape!s:24} {medians['torch']:9.2f} {medians['bptt']:9.2f} {ratio:7.2f}")
    return ratio


def main() -> None:
    """Print the machine, a line for each shape, and the geometric means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    torch.set_num_threads(parser.parse_args().threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{bptt.kernel.info()['kernel']}; milliseconds a training step")
    print("    (T, B, I, H)                 torch      bptt   ratio")
    for ours, theirs in ((bptt.RNN, nn.RNN), (bptt.GRU, nn.GRU)):
        ratios = [compare(ours, theirs, shape) for shape in SHAPES]
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
        print(f"{theirs.__name__} geometric mean {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
