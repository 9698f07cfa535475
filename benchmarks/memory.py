"""Peak memory of a training step of one recurrent layer, next to torch.nn.RNN.

T = 4000, B = 32, I = 64, H = 256; the output's gradient is given and not counted. In units of the
array of hidden states, T x B x H floats.

    python benchmarks/memory.py
"""

from __future__ import annotations

from typing import Any

import torch
from peak import Prepared, cost

import bptt

T, B, I, H = 4000, 32, 64, 256  # noqa: E741


def training_step(package: str) -> tuple[Prepared, Prepared]:
    """Return a small step, to warm up, and the step to be measured."""
    layer: Any = (bptt if package == "bptt" else torch.nn).RNN(I, H)

    def step(T: int) -> Prepared:
        x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)

        def run() -> Any:
            output = layer(x)[0]
            return torch.autograd.grad(output, [x, *layer.parameters()], grad)

        return run

    return step(50), step(T)


def main() -> None:
    """Print each package's peak, in MB and in arrays of hidden states, and its time."""
    for package in ("torch", "bptt"):
        memory, seconds = cost(training_step, package)
        arrays = memory / (4 * T * B * H)
        print(f"{package:6} RNN  {memory / 1e6:7.0f} MB  {arrays:5.2f} x T B H  {seconds:6.2f} s")


if __name__ == "__main__":
    main()
