"""A step that torch has a fused layer of, run over time by that: on a GPU, this is cuDNN's.

It serves where the native kernel does not: on other devices, in bfloat16 and float16, and where
there is no kernel. torch's layers know rows, or packed rows, forward in time. All other layouts
become these: a sequence is cut where its state is reset, and each piece is a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.plain import PLAIN_TYPES, is_traced, is_transformed
from bptt.kernel.plain_loop import Parts


class Fused(NamedTuple):
    """torch's fused layer of a step whose tensors are W, and then what the layer projects h with.

    layer: torch.gru, say. has_bias: whether the step itself adds a bias to W h, which then is its
    second tensor; in other steps all biases are in p.
    """

    layer: Callable[..., Any]
    has_bias: bool = False


FUSED: dict[Any, Fused] = {
    torch.rnn_tanh_cell: Fused(torch.rnn_tanh),
    torch.rnn_relu_cell: Fused(torch.rnn_relu),
    torch.gru_cell: Fused(torch.gru, has_bias=True),
    torch.lstm_cell: Fused(torch.lstm),
}
"""torch's layers, by its operation for one step."""


def serves(source: Source, state: Parts, tensors: Sequence[Tensor | None]) -> bool:
    """Return whether torch's layers can run on these: plain floats of one dtype, on one device."""
    if torch.compiler.is_compiling() or is_transformed() or is_traced():
        return False
    numbers = [t for t in (*source[1:], *state, *tensors) if t is not None]
    dtype, device = numbers[0].dtype, numbers[0].device
    return (
        dtype.is_floating_point
        and device.type != "meta"
        and source.x.numel() > 0
        and source.x.device == device
        and (source.is_tokens or source.x.dtype == dtype)
        and all(type(t) in PLAIN_TYPES and t.dtype == dtype and t.device == device for t in numbers)
    )


def run(
    fused: Fused,
    tensors: Sequence[Tensor | None],
    source: Source,
    state: Parts,
    layout: Layout,
) -> tuple[Float[Tensor, "... H"], Parts]:
    """Run a step over time; return h at every step, and each sequence's last state."""
    rows, weights = _weights(fused, tensors, source)
    sizes = layout.batch_sizes
    if layout.resets is None and not layout.reverse:
        if sizes is None:
            return _call(fused, state, (rows,), weights)
        if int(sizes[0]) == len(state[0]) and int(sizes[-1]) > 0:
            return _call(fused, state, (rows, sizes), weights)
    pieces = Pieces.of(layout, rows, len(state[0]))
    packed = rows.flatten(0, -2).index_select(0, pieces.rows)
    h, ends = _call(fused, pieces.starts(state), (packed, pieces.sizes), weights)
    every = h.new_empty(h.shape).index_copy(0, pieces.rows, h)
    return every.view(*rows.shape[:-1], -1), pieces.ends(ends, state)


def _call(
    fused: Fused, state: Parts, rows: tuple[Tensor, ...], weights: list[Tensor]
) -> tuple[Tensor, Parts]:
    """Call torch's layer, on rows and, if they are packed, their batch sizes."""
    starts = [part.unsqueeze(0) for part in state]
    hx = tuple(starts) if len(starts) > 1 else starts[0]
    is_packed = len(rows) == 2
    head = (*rows, hx) if is_packed else (rows[0], hx)
    options = True, 1, 0.0, True, False  # biases, one layer, no dropout, for training, forward
    tail = options if is_packed else (*options, False)  # time first
    h, *ends = fused.layer(*head, weights, *tail)
    return h, tuple(end.squeeze(0) for end in ends)


def _weights(
    fused: Fused, tensors: Sequence[Tensor | None], source: Source
) -> tuple[Float[Tensor, "... I"], list[Tensor]]:
    """Return the rows that torch's layer is to have, and U, W, two biases, and the projection."""
    W, *others = tensors
    assert W is not None
    x, U, b_ih, b_hh = source
    if U is not None and source.is_tokens and U.shape[1] <= U.shape[0]:
        one_hot = nn.functional.one_hot(x + 1, U.shape[1] + 1)[..., 1:]  # −1 is none of them
        x = one_hot.to(U.dtype)
    elif U is None or source.is_tokens:
        x, b_ih, b_hh = source.p, None, None
        U = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    if fused.has_bias:
        b_ih, b_hh = Source(x, U, b_ih, b_hh).bias, others.pop(0) if others else None
    biases = [W.new_zeros(len(W)) if bias is None else bias for bias in (b_ih, b_hh)]
    weights = [U, W, *biases, *(t for t in others if t is not None)]
    return x, _in_one_piece(weights) if W.is_cuda else weights


def _in_one_piece(weights: list[Tensor]) -> list[Tensor]:
    """Return the weights as views of one array, the matrices first, as cuDNN wants them."""
    order = sorted(range(len(weights)), key=lambda i: -weights[i].ndim)
    flat = torch.cat([weights[i].flatten() for i in order])
    parts = dict(zip(order, flat.split([weights[i].numel() for i in order]), strict=True))
    return [parts[i].view(weight.shape) for i, weight in enumerate(weights)]


class Pieces(NamedTuple):
    """Sequences cut where their state is reset, longest piece first, as packed rows.

    rows: which row each packed row is. sizes: how many pieces go on at each step. sequence: of
    which sequence each piece is; fresh: whether it starts from zero. last: the place of each
    sequence's last piece; 0, of no meaning, where a sequence has no rows. empty: which those are.
    """

    rows: Int[Tensor, " N"]
    sizes: Int[Tensor, " T"]
    sequence: Int[Tensor, " P"]
    fresh: Shaped[Tensor, " P"]
    last: Int[Tensor, " B"]
    empty: Shaped[Tensor, " B"]

    @classmethod
    def of(cls, layout: Layout, rows: Tensor, B: int) -> Pieces:
        """Return the pieces of rows, (T, B, I) or (N, I), that lie so, of B sequences."""
        sizes = layout.batch_sizes
        if sizes is None:
            sizes = torch.full((len(rows),), rows.shape[1], device="cpu")
        T, device = len(sizes), rows.device
        sequence, t = (torch.arange(n, device="cpu") for n in (B, T))
        lengths = (sizes.unsqueeze(1) > sequence).sum(0)
        at = lengths.unsqueeze(1) - 1 - t if layout.reverse else t.expand(B, T)
        there = t < lengths.unsqueeze(1)  # (B, T), in the order of computation
        first = sizes.cumsum(0) - sizes
        row = (first[at.clamp(min=0)] + sequence.unsqueeze(1))[there]
        is_start = (t == 0).expand(B, T)[there]
        is_reset = torch.zeros_like(is_start)
        if layout.resets is not None:
            is_reset = layout.resets.flatten().cpu()[row]
        begins = is_start | is_reset
        piece = begins.cumsum(0) - 1
        counts = piece.bincount()
        begin = begins.nonzero().squeeze(1)
        position = torch.arange(len(row), device="cpu") - begin[piece]
        order = counts.argsort(descending=True, stable=True)
        rank = order.argsort()
        packed = (position * len(counts) + rank[piece]).argsort()
        of = sequence.repeat_interleave(lengths)
        ends = lengths.cumsum(0) - 1
        last = rank[piece[ends.clamp(min=0)]]
        moved = (t.to(device) for t in (row[packed], of[begin][order], is_reset[begin][order]))
        index, whose, fresh = moved
        empty = lengths == 0
        return cls(index, position.bincount(), whose, fresh, last.to(device), empty.to(device))

    def starts(self, state: Parts) -> Parts:
        """Return the state that each piece starts from."""
        fresh = self.fresh.unsqueeze(1)
        return tuple(part[self.sequence].masked_fill(fresh, 0) for part in state)

    def ends(self, ends: Parts, state: Parts) -> Parts:
        """Return each sequence's last state, of its pieces' last ones: the first without rows."""
        empty = self.empty.unsqueeze(1)
        return tuple(
            torch.where(empty, start, end[self.last])
            for end, start in zip(ends, state, strict=True)
        )
