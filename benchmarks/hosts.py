"""Other people's programs with their own recurrent layers, and with ours by bptt.accelerate.

    python benchmarks/hosts.py      (of those that are installed: see docs/hosts.md)

Medians of the whole training in turns, and of a training step of the layer alone, on the rows that
the program was seen to hand it.
"""

from __future__ import annotations

import copy
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from steps import seconds
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import bptt

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.hosts import HOSTS, Host, Sizes

SIZES = Sizes(H=128, B=32, T=100, updates=50)
ROUNDS = 3
Layer = nn.RNN | nn.GRU | nn.LSTM


def whole(host: Host, layer: str) -> tuple[float, float, tuple[nn.Module, Any]]:
    """Return the seconds that it takes with ours and with its own, and what its layer was given."""
    seen: list[tuple[nn.Module, Any]] = []

    def look(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, Layer):
                module.register_forward_pre_hook(lambda *call: seen.append(call))

    torch.manual_seed(0)
    host.run(layer, Sizes(SIZES.H, SIZES.B, SIZES.T, updates=5), look)
    largest = max(seen, key=lambda call: rows_of(call[1][0]).numel())
    times: dict[Any, list[float]] = {bptt.accelerate: [], (lambda model: None): []}
    for _ in range(ROUNDS):
        for use, found in times.items():
            torch.manual_seed(0)
            start = time.perf_counter()
            host.run(layer, SIZES, use)
            found.append(time.perf_counter() - start)
    ours, theirs = map(statistics.median, times.values())
    return ours, theirs, largest


def rows_of(given: Any) -> Tensor:
    """Return the rows of a tensor or a PackedSequence."""
    rows: Tensor = given.data if isinstance(given, PackedSequence) else given
    return rows


def alone(layer: nn.Module, x: Any) -> tuple[float, float]:
    """Return the seconds of a training step of a layer, as ours and as it is."""
    layer = copy.deepcopy(layer)
    layer._forward_pre_hooks.clear()
    x = x if isinstance(x, PackedSequence) else x.detach()

    def step(of: nn.Module) -> None:
        of.zero_grad()
        rows_of(of(x)[0]).sum().backward()

    ours = bptt.accelerate(copy.deepcopy(layer))
    ours_seconds, theirs = seconds(lambda: step(ours), lambda: step(layer))
    return ours_seconds, theirs


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the hosts' own
    warnings.simplefilter("ignore")
    print(f"{torch.get_num_threads()} threads, {SIZES}")
    print(f"{'':22}the layer gets{'':15}layer, ms   ours  ratio   all, s   ours  ratio")
    for host in HOSTS:
        if not host.is_here:
            print(f"{host.package}: not installed")
            continue
        for name in host.layers:
            ours, theirs, (layer, (x, *_)) = whole(host, name)
            mine, its = alone(layer, x)
            print(
                f"{host.package:16}{name:6}{tuple(rows_of(x).shape)!s:24}{its * 1e3:13.2f}"
                f"{mine * 1e3:7.2f}{its / mine:7.2f}{theirs:9.2f}{ours:7.2f}{theirs / ours:7.2f}",
                flush=True,
            )
