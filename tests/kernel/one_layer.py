"""One layer in one direction, by the name of its cell, for tests that hold the loop to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bptt.cells.elman import elman, feedforward
from bptt.cells.gru import gru
from bptt.cells.looped import LoopParts, looped
from bptt.cells.registry import CELLS
from bptt.kernel import ops
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import Parts, Step


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


def recipe(cell: str, given: Given) -> Recipe:
    """Return what makes a cell's step of these tensors."""
    if cell == "gru":
        return Recipe(gru, (given.W, given.b_hh))
    return Recipe(elman, (given.W,), (CELLS[cell].f,))


def _looped(
    W: Tensor,
    leak: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    f: Callable[[Tensor], Tensor],
    delays: tuple[int, ...],
) -> Step:
    return looped(W, f, LoopParts(delays, leak, gain, shift))


PLAIN = LoopParts()
"""W alone."""
Run = Callable[..., tuple[Tensor, Parts]]


def layer(
    cell: str, given: Given, layout: Layout = DENSE, *, run: Run = ops.run
) -> tuple[Tensor, Tensor]:
    """Run a layer in one direction over time; return every hᵗ, laid out as x, and the last ones.

    cell: "tanh", "relu" or "gru". Without W there is no loop, and no last state.
    """
    source = given.source(cell)
    if given.W is None or given.h0 is None:
        U = given.U
        assert U is not None
        B = int(layout.batch_sizes[0]) if layout.batch_sizes is not None else given.x.shape[1]
        h, _ = run(
            Recipe(feedforward, (), (CELLS[cell].f,)), source, (U.new_empty(B, len(U)),), layout
        )
        return h, h.new_empty(0, h.shape[-1])
    h, (last,) = run(recipe(cell, given), source, (given.h0,), layout)
    return h, last


def looped_layer(
    cell: str,
    given: Given,
    loop: LoopParts = PLAIN,
    layout: Layout = DENSE,
    *,
    run: Run = ops.run,
) -> tuple[Tensor, Tensor]:
    """Run a tanh or relu layer with more in its loop; return every hᵗ and each row's last D.

    given: with h0 (D, B, H): h⁰, h⁻¹, …, D being the farthest delay.
    """
    assert given.W is not None
    assert given.h0 is not None
    step = Recipe(_looped, (given.W, *loop[1:]), (CELLS[cell].f, loop.delays))
    step = recipe(cell, given) if loop == LoopParts() else step
    h, last = run(step, given.source(cell), tuple(given.h0), layout)
    return h, torch.stack(last)
