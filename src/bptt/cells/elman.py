"""hᵗ = f(pᵗ + W hᵗ⁻¹), the simple recurrent network (Elman 1990); and without W, f alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.kind import Activation, Kind
from bptt.kernel import ops
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import ROWS_AT_ONCE, Recipe
from bptt.kernel.plain_loop import State, Step, project


def elman(W: Float[Tensor, "H H"], f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ + W hᵗ⁻¹) (Elman 1990)."""

    def step(p: Float[Tensor, "B H"], state: State) -> State:
        (h,) = state
        return (f(torch.addmm(p, h, W.t())),)

    return step


def feedforward(f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ), whatever the state."""
    return lambda p, state: (f(p),)


def feedforward_rows(
    f: Activation, x: Tensor, U: Float[Tensor, "H I"], b: Float[Tensor, " H"]
) -> Float[Tensor, "... H"]:
    """Return h = f(b + U x) of every row of x, (..., I), or token.

    The kernel takes the rows for a sequence of many steps, between which nothing is handed on.
    """
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    flat = x.flatten(0, len(rows) - 1)
    if torch.compiler.is_compiling() or len(flat) == 0:
        return f(project(flat, U, b)).view(*rows, len(b))
    count = len(flat)
    sizes = torch.full((-(-count // ROWS_AT_ONCE),), ROWS_AT_ONCE, device="cpu")
    sizes[-1] = count - ROWS_AT_ONCE * (len(sizes) - 1)
    step, none = Recipe(feedforward, (), (f,)), U.new_empty(int(sizes[0]), len(U))
    h, _ = ops.run(step, Source(flat, U, b), (none,), Layout(sizes))
    return h.view(*rows, len(b))


TANH = Kind("tanh", "RNN_TANH", elman, f=torch.tanh)
RELU = Kind("relu", "RNN_RELU", elman, f=torch.relu)
