"""Every cell that has a name: a training step in the kernel and as a loop in Python.

    python benchmarks/cells.py [--threads 1] [--write]

Forward and backward, float32, T = 200 steps of B = 16 sequences, 64 inputs and 64 units; medians of
turns, each value checked. The last number printed is the most that the ratio can be: of the loop
to the two products of U alone, which both sides have. --write puts the table into docs/cells.md.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from steps import seconds
from torch import Tensor

import bptt
from bptt.cells.cell import Cell
from bptt.cells.registry import CELLS
from bptt.kernel import ops
from bptt.kernel.native_step import Source

T, B, I, H = 200, 16, 64, 64  # noqa: E741
PAGE = Path(__file__).parent.parent / "docs/cells.md"
BEGIN, END = "<!-- the table, by benchmarks/cells.py -->\n", "<!-- its end -->\n"


def training_step(cell: Cell, x: Tensor, run: Callable[..., tuple[Tensor, object]]) -> list[Tensor]:
    """Return h of every step, and the gradients."""
    tensors = cell.tensors()
    biases = [tensors.get(name) for name in cell.biases]
    source = Source(x, tensors["weight_ih"], *biases)
    h, _ = run(cell.recipe(tensors), source, cell.zero_state(B, x))
    leaves = [p for p in cell.parameters() if p.requires_grad]
    return [h, *torch.autograd.grad(h, leaves, torch.ones_like(h))]


def products_of_U(x: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Return U x, and a gradient of U."""
    p = x @ U.T
    return p, p.T @ x


def rows() -> list[str]:
    """Return the table's rows."""
    found = []
    for name, kind in CELLS.items():
        torch.manual_seed(0)
        cell, x = kind(I, H), torch.randn(T, B, I)
        exact = copy.deepcopy(cell).double()
        sides = (training_step(exact, x.double(), run) for run in (ops.run, ops.run_plainly))
        for ours, plain in zip(*sides, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-9)
        native, loop, outside = seconds(
            lambda: training_step(cell, x, ops.run),  # noqa: B023
            lambda: training_step(cell, x, ops.run_plainly),  # noqa: B023
            partial(products_of_U, x.flatten(0, 1), cell.weight_ih.detach()),
        )
        numbers = sum(p.numel() for p in cell.parameters())
        ms, times = f"{native * 1e3:.1f}", f"{loop / native:.0f}"
        says = (kind.__doc__ or "").split("\n")[0].removesuffix(".")
        found.append(f"| `{name}` | {says} | {numbers:,} | {ms} | {times} × |\n")
        print(
            f"{name:16}{native * 1e3:8.2f} ms{loop * 1e3:10.1f} ms{loop / native:8.1f}"
            f"{loop / outside:8.0f}",
            flush=True,
        )
    return found


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{bptt.kernel.info()['kernel']}, {torch.get_num_threads()} threads, {torch.__version__}")
    table = rows()
    if options.write:
        head = "| name | what it computes | parameters | ms a training step | a loop in Python |\n"
        head += "|---|---|---|---|---|\n"
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + head + "".join(table) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
