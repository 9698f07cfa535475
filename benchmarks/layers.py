"""bptt.RNN, GRU and LSTM next to their peers: a training step of one layer, forward and backward.

Gradients of input, weights and bias; float32. Checks everyone's values and gradients against
torch's first, then times all in turns; medians. "kernel" is ours without its Python layer, as
oneDNN's primitive is without one. jax and oneDNN take part where they are installed:
pip install '.[peers]'

    python benchmarks/layers.py [--threads 1] [--before PYTHON] [--rounds 9]

--before: the interpreter of an environment that has an earlier bptt, which is then a side as well.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
from pathlib import Path

import numpy
import torch
from peers import Peer, Shape, installed

import bptt

# T, B, I, H
SHAPES: list[Shape] = [
    (100, 1, 10, 32),
    (100, 16, 10, 64),
    (256, 32, 64, 128),
    (256, 64, 64, 256),
    (1000, 32, 10, 256),
    (256, 64, 128, 512),
    (64, 64, 512, 1024),
]
RATIOS = {
    "tanh": [
        ("torch", "bptt"),
        ("jax", "bptt"),
        ("oneDNN", "kernel"),
        ("oneDNN", "bptt"),
        ("before", "bptt"),
    ],
    "gru": [("torch", "bptt"), ("before", "bptt")],
    "lstm": [("torch", "bptt"), ("before", "bptt")],
}


SHORT, MORE = 0.002, 4
"""Steps of less than so many seconds, which vary most, are timed in so many times the rounds."""


def compare(cell: str, shape: Shape, peers: dict[str, Peer], rounds: int) -> dict[str, list[float]]:
    """Check, then return every peer's seconds a step, round by round."""
    found = {name: peer.ask((cell, shape)) for name, peer in peers.items()}
    for name, results in found.items():
        for mine, its in zip(results, found["torch"], strict=True):
            scale = numpy.abs(its).max()
            numpy.testing.assert_allclose(mine / scale, its / scale, atol=2e-4, err_msg=name)
    times = timed(peers, rounds)
    return timed(peers, MORE * rounds) if min(map(min, times.values())) < SHORT else times


def timed(peers: dict[str, Peer], rounds: int) -> dict[str, list[float]]:
    """Return every peer's seconds a step, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, peer in peers.items():
            times[name].append(peer.ask(None))
    return times


def main() -> None:
    """Print the machine, a line for each shape, and the geometric means of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    threads, before = options.threads, options.before
    if hasattr(os, "sched_setaffinity"):  # not every library can be told how many threads to use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    kernel = bptt.kernel.info()["kernel"]
    print(f"{platform.machine()} ({kernel}), {threads} threads, torch {torch.__version__}")
    for cell, of_interest in RATIOS.items():
        names = [name for name in installed(before) if any(name in pair for pair in of_interest)]
        pairs = [pair for pair in of_interest if set(pair) <= set(names)]
        interpreters = {"before": before}
        peers = {name: Peer(name, threads, interpreters.get(name)) for name in names}
        headings = [*names, *(f"{a}/{b}" for a, b in pairs)]
        print(f"\n{cell}: ms a training step, and ratios")
        print("T, B, I, H         " + "".join(f"{heading:>14}" for heading in headings))
        all_ratios: list[list[float]] = []
        for shape in SHAPES:
            times = compare(cell, shape, peers, options.rounds)
            ratios = [
                statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))
                for a, b in pairs
            ]
            all_ratios.append(ratios)
            values = [f"{1e3 * statistics.median(times[name]):14.3f}" for name in names]
            values += [f"{ratio:14.2f}" for ratio in ratios]
            print(f"{', '.join(map(str, shape)):19}" + "".join(values), flush=True)
        for text, summary in (("geometric mean", _geometric_mean), ("least", min)):
            means = [f"{summary(column):14.2f}" for column in zip(*all_ratios, strict=True)]
            print(f"{text:19}" + 14 * len(names) * " " + "".join(means))
        for peer in peers.values():
            peer.close()


def _geometric_mean(ratios: tuple[float, ...]) -> float:
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


if __name__ == "__main__":
    main()
