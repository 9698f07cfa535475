"""hᵗ = f(pᵗ + W hᵗ⁻¹), the simple recurrent network (Elman 1990); and without W, f alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Activation
from bptt.cells.torch_cell import TorchCell
from bptt.errors import require_choice
from bptt.kernel import ops
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import ROWS_AT_ONCE, Recipe
from bptt.kernel.plain_loop import Parts, Step, project


def elman(W: Float[Tensor, "H H"], f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ + W hᵗ⁻¹) (Elman 1990)."""

    def step(p: Float[Tensor, "B H"], state: Parts) -> Parts:
        (h,) = state
        return (f(torch.addmm(p, h, W.t())),)

    return step


class RNNCell(TorchCell):
    """torch.nn.RNNCell: h ← f(bias_ih + bias_hh + weight_ih x + weight_hh h)."""

    f: ClassVar[Activation | None] = torch.tanh
    by_torch: ClassVar[Callable[..., Any]] = torch.rnn_tanh_cell
    closed_by = "W"
    biases = ("bias_ih", "bias_hh")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str | None = None,
        **where: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **where)
        if nonlinearity is not None:
            require_choice("nonlinearity", nonlinearity, list(NONLINEARITIES))
            kind = NONLINEARITIES[nonlinearity]
            self.f, self.by_torch = kind.f, kind.by_torch  # type: ignore

    def step(self, p: Float[Tensor, "B H"], h: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        """Return f(p + W h)."""
        assert self.f is not None
        (h,) = elman(self.weight_hh, self.f)(p, (h,))
        return h


class ReluCell(RNNCell):
    """An RNNCell of rectified units."""

    f: ClassVar[Activation | None] = torch.relu
    by_torch = torch.rnn_relu_cell


NONLINEARITIES: dict[str, type[RNNCell]] = {"tanh": RNNCell, "relu": ReluCell}
"""What torch.nn.RNN may be asked for."""


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
