"""A budget of memory against what the process really grows by, kernel and threads included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import bptt
from bptt.gradient.costs import taken_by
from tests.covering import pairs

BESIDES, KEPT = 3_000_000, 0.5
"""What a process takes besides: pages of code and the stacks of threads; and what of the budget the
C library may keep for later."""
CASES = pairs((64, 512), (1, 8), (None, 16), (False, True))
"""Hidden units, threads, a window, and whether there are gradients already."""
T, B, SYMBOLS = 64, 16, 50


class Growth(NamedTuple):
    hidden: int
    threads: int
    window: int | None
    has_gradients: bool
    budget: int
    taken: int


def least_memory(net: bptt.Network, y: torch.Tensor, window: int | None) -> int:
    with pytest.raises(bptt.BpttError, match="expected at least") as refused:
        bptt.backward(net, y, memory=1, window=window)
    number = re.search(r"expected at least ([\d,]+)", str(refused.value))
    return int(number[1].replace(",", ""))


def growth(hidden: int, threads: int, window: int | None, has_gradients: bool) -> Growth:
    """Return what the process grows by within a budget that is somewhat above the least."""
    torch.set_num_threads(threads)
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=hidden)
    y = torch.randint(SYMBOLS, (T, B))
    bptt.backward(net, y[:4])
    if not has_gradients:
        net.zero_grad()
    budget = least_memory(net, y, window) * 5 // 4
    taken = taken_by(lambda: bptt.backward(net, y, memory=budget, window=window)).memory
    grads = 0 if has_gradients else sum(4 * p.numel() for p in net.parameters())
    return Growth(hidden, threads, window, has_gradients, budget, max(0, taken - grads))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a peak")
def test_the_process_grows_by_no_more_than_the_budget() -> None:
    command = [sys.executable, "-m", "tests.without_compiler", __name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    grown = [Growth(*row) for row in json.loads(done.stdout)]
    assert len(grown) == len(CASES)
    over = [one for one in grown if one.taken > (1 + KEPT) * one.budget + BESIDES]
    assert not over, over


if __name__ == "__main__":
    sys.stdout.write(json.dumps([growth(*case) for case in CASES]))
