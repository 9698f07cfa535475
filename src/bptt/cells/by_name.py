"""The package's own cells by name, run over time on what their layers have."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.elman import Activation, elman, feedforward
from bptt.cells.gru import gru
from bptt.cells.looped import PLAIN, Loop, looped
from bptt.cells.lstm import lstm
from bptt.kernel import ops
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import ROWS_AT_ONCE, Recipe
from bptt.kernel.plain_loop import Step, project

ACTIVATIONS: dict[str, Activation] = {"tanh": torch.tanh, "relu": torch.relu}


def recipe(cell: str, *tensors: Tensor | None) -> Recipe:
    """Return what makes a cell's step: of W, and what else its loop has."""
    if cell in ACTIVATIONS:
        return Recipe(elman, tensors, (ACTIVATIONS[cell],))
    return Recipe({"gru": gru, "lstm": lstm}[cell], tensors)


def loop_recipe(cell: str, W: Tensor, loop: Loop) -> Recipe:
    """Return the same for a tanh or relu layer with more in its loop."""
    if loop == PLAIN:
        return recipe(cell, W)
    return Recipe(_looped, (W, *loop[1:]), (ACTIVATIONS[cell], loop.delays))


def _looped(
    W: Tensor,
    leak: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    f: Activation,
    delays: tuple[int, ...],
) -> Step:
    return looped(W, f, Loop(delays, leak, gain, shift))


def feedforward_rows(
    cell: str, x: Tensor, U: Float[Tensor, "H I"], b: Float[Tensor, " H"]
) -> Float[Tensor, "... H"]:
    """Return h = f(b + U x) of every row of x, (..., I), or token.

    The kernel takes the rows for a sequence of many steps, between which nothing is handed on.
    """
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    flat = x.flatten(0, len(rows) - 1)
    if torch.compiler.is_compiling() or len(flat) == 0:
        return ACTIVATIONS[cell](project(flat, U, b)).view(*rows, len(b))
    count = len(flat)
    sizes = torch.full((-(-count // ROWS_AT_ONCE),), ROWS_AT_ONCE, device="cpu")
    sizes[-1] = count - ROWS_AT_ONCE * (len(sizes) - 1)
    step, none = Recipe(feedforward, (), (ACTIVATIONS[cell],)), U.new_empty(int(sizes[0]), len(U))
    h, _ = ops.run(step, Source(flat, U, b), (none,), Layout(sizes))
    return h.view(*rows, len(b))
