"""Layers of half precision, and under autocast: ours, computed in float32 inside, and torch.nn's.

    python benchmarks/half.py [--threads 1]

A training step (forward, and backward of the sum of the outputs) at T, B, H = 100, 32, 128; medians
of turns. Autocast is to bfloat16.
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
        for kind in ("float32", "bfloat16", "float16", "autocast"):
            is_cast = kind == "autocast"
            dtype = torch.float32 if is_cast else getattr(torch, kind)
            theirs, ours = (getattr(of, name)(H, H).to(dtype) for of in (nn, bptt))
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(T, B, H).to(dtype)

            def step(
                of: nn.Module, x: torch.Tensor = x, *, cast: bool = kind == "autocast"
            ) -> None:
                of.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                    h, _ = of(x)
                h.sum().backward()

            mine, its = (lambda: step(ours)), (lambda: step(theirs))  # noqa: B023
            try:
                a, z = seconds(mine, its)
            except RuntimeError:  # of LSTMs torch has none where processors have no such products
                (a,), z = seconds(mine), float("nan")
            print(f"{name:6}{kind:10}{a * 1e3:9.1f}{z * 1e3:11.1f}{z / a:8.2f}", flush=True)


if __name__ == "__main__":
    main()
