"""The package's own cells by name, run over time on what their layers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.elman import Activation, elman, feedforward
from bptt.cells.gru import gru
from bptt.cells.looped import PLAIN, Loop, looped
from bptt.cells.lstm import lstm
from bptt.kernel import ops
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.native_step import Source
from bptt.kernel.omega import OmegaTerm
from bptt.kernel.ops import ROWS_AT_ONCE, Recipe
from bptt.kernel.plain_loop import State, Step, project

ACTIVATIONS: dict[str, Activation] = {"tanh": torch.tanh, "relu": torch.relu}


class Given(NamedTuple):
    """What a layer, in one direction, computes from.

    x: (T, B, I) or (N, I), as a Layout says, or tokens, (T, B) or (N), from 0 to I − 1, or −1 for
    none. U: (G, I), or None where x is b + U x already: with both biases for all but the GRU, which
    are then None; with b_ih for a GRU. W: (G, H). b_ih, b_hh: (G), or None for 0. h0: (B, H).
    G is H, or 3H for a GRU. W and h0 are None where nothing loops over h; U is not, then.
    """

    x: Tensor
    U: Tensor | None
    W: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    h0: Tensor | None

    def source(self, cell: str) -> Source:
        """Return what stands outside the loop: both biases, but for the GRU's second one."""
        return Source(self.x, self.U, self.b_ih, None if cell == "gru" else self.b_hh)


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


Run = Callable[..., tuple[Tensor, State]]


def layer(
    cell: str, given: Given, layout: Layout = DENSE, *, run: Run = ops.run
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Run a layer in one direction over time; return every hᵗ, laid out as x, and the last ones.

    cell: "tanh", "relu" or "gru". Without W there is no loop, and no last state.
    """
    source = given.source(cell)
    if given.W is None or given.h0 is None:
        U = given.U
        assert U is not None
        B = int(layout.batch_sizes[0]) if layout.batch_sizes is not None else given.x.shape[1]
        h, _ = run(
            Recipe(feedforward, (), (ACTIVATIONS[cell],)), source, (U.new_empty(B, len(U)),), layout
        )
        return h, h.new_empty(0, h.shape[-1])
    tensors = (given.W, given.b_hh) if cell == "gru" else (given.W,)
    h, (last,) = run(recipe(cell, *tensors), source, (given.h0,), layout)
    return h, last


def looped_layer(
    cell: str,
    given: Given,
    loop: Loop = PLAIN,
    layout: Layout = DENSE,
    omega: OmegaTerm | None = None,
    *,
    run: Run = ops.run,
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "D B H"]]:
    """Run a tanh or relu layer with more in its loop; return every hᵗ and each row's last D.

    given: with h0 (D, B, H): h⁰, h⁻¹, …, D being the farthest delay. omega: see `ops.run`.
    """
    assert given.W is not None
    assert given.h0 is not None
    step, more = loop_recipe(cell, given.W, loop), () if omega is None else (omega,)
    h, last = run(step, given.source(cell), tuple(given.h0), layout, *more)
    return h, torch.stack(last)


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
    h, _ = layer(cell, Given(flat, U, None, b, None, None), Layout(sizes))
    return h.view(*rows, len(b))
