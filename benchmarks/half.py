"""Layers of half precision: ours, computed in float32 inside, and torch.nn's on the same weights.

    python benchmarks/half.py [--threads 1]

A training step (forward, and backward of the sum of the outputs) at T, B, H = 100, 32, 128; medians
of turns.
"""

from __future__ import annotations

import argparse

import torch
from steps import seconds
from torch import nn

import bptt

T, B, H = 100, 32, 128


def main() -> None:
    """Print a line for each layer and dtype."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print(f"{torch.get_num_threads()} threads; T, B, H = {T}, {B}, {H}; ms a training step")
    print("                     bptt   torch.nn   ratio")
    for name in ("RNN", "GRU", "LSTM"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            theirs, ours = (getattr(of, name)(H, H).to(dtype) for of in (nn, bptt))
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(T, B, H).to(dtype)

            def step(of: nn.Module, x: torch.Tensor = x) -> None:
                of.zero_grad()
                of(x)[0].sum().backward()

            sides = (lambda: step(ours)), (lambda: step(theirs))  # noqa: B023
            a, z = seconds(*sides)
            kind = str(dtype).removeprefix("torch.")
            print(f"{name:6}{kind:10}{a * 1e3:9.1f}{z * 1e3:11.1f}{z / a:8.2f}", flush=True)


if __name__ == "__main__":
    main()
