"""A traced step, run natively: its programs made ready once, and called with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel import binding
from bptt.kernel.binding import address, addresses
from bptt.kernel.fuse import fuse, fuse_around
from bptt.kernel.layout import Layout
from bptt.kernel.lower import lower_backward, lower_forward
from bptt.kernel.omega import OmegaTerm
from bptt.kernel.plain_loop import project
from bptt.kernel.program import Program, run_once
from bptt.kernel.rules import Backward, reverse
from bptt.kernel.tables import Shape, encoded

CONTIGUOUS: Any = {"memory_format": torch.contiguous_format}


class Source(NamedTuple):
    """What p is made of: b_ih + b_hh + U x, of rows or tokens x; or x itself, without U.

    x: (T, B, I) or (N, I), as a Layout says, or tokens, (T, B) or (N), from 0 to I − 1, or −1 for
    none. U: (G, I). b_ih, b_hh: (G), or None for 0.
    """

    x: Tensor
    U: Tensor | None = None
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None

    @property
    def p(self) -> Tensor:
        """The projected input itself, by torch."""
        return self.x if self.U is None else project(self.x, self.U, self.bias)

    @property
    def bias(self) -> Tensor | None:
        """What is added to U x."""
        if self.b_ih is None or self.b_hh is None:
            return self.b_hh if self.b_ih is None else self.b_ih
        return self.b_ih + self.b_hh

    def to(self, dtype: torch.dtype) -> Source:
        """Return it in another dtype, but for tokens."""
        weights = [None if t is None else t.to(dtype) for t in self[1:]]
        return Source(self.x if self.is_tokens else self.x.to(dtype), *weights)

    @property
    def is_tokens(self) -> bool:
        """Whether x are tokens."""
        return not self.x.is_floating_point()

    @property
    def rows(self) -> torch.Size:
        """The shape of rows: (T, B) or (N)."""
        return self.x.shape if self.is_tokens else self.x.shape[:-1]


class Inputs(NamedTuple):
    """What a step runs on.

    starts: each state before the first step, (B, width), or (length, B, width) where it is read
    further back. weights: matrices and vectors, as `NativeStep` names them.
    """

    source: Source
    starts: Sequence[Tensor]
    weights: Sequence[Tensor]
    layout: Layout


class Needs(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    U: bool
    b: bool
    weights: tuple[bool, ...]


@dataclass(frozen=True)
class NativeStep:
    """A step that can be run over time natively: its program, and the widths of p and its states.

    transposed: of which weights the tensors are (N, K), as torch's layers have them. tables: which
    ones are tables, whose rows are looked up. every: of how many of the first states every step's
    is returned.
    """

    program: Program
    shape: Shape
    transposed: frozenset[int] = frozenset()
    tables: frozenset[int] = frozenset()
    every: int = 1

    @cached_property
    def gradient(self) -> Backward:
        """The program of the gradient."""
        backward = reverse(self.program, self.every)
        return replace(backward, program=fuse(backward.program))

    @cached_property
    def forward_program(self) -> Any:
        """What the kernel runs where nothing is kept for a gradient."""
        return encoded(lower_forward(fuse(self.program), self.shape), self.shape)

    @cached_property
    def _forward_that_keeps(self) -> Any:
        fused, lines = fuse_around(self.program, self.gradient.saved)
        return encoded(lower_forward(fused, self.shape, lines), self.shape)

    @cached_property
    def _backward(self) -> Any:
        return encoded(lower_backward(self.gradient, self.shape), self.shape)

    def room_for_saved(self, like: Tensor, rows: int) -> list[Tensor]:
        """Return memory for what the forward pass keeps for so many rows: one tensor, or none."""
        *_, end = self._places_of_saved(rows)
        return [like.new_empty(end)] if self.gradient.saved else []

    def clear_gaps(self, saved: Sequence[Tensor], rows: int) -> None:
        """Write 0 between the values that are kept, where nothing else is written."""
        places = self._places_of_saved(rows)
        for tensor in saved:
            for line, start, end in zip(self.gradient.saved, places, places[1:], strict=False):
                tensor[start + rows * self.program.values[line].width : end].zero_()

    def _places_of_saved(self, rows: int) -> list[int]:
        """Return where each value begins that is kept, in numbers, and where the last one ends."""
        places = [0]
        for line in self.gradient.saved:
            size = rows * self.program.values[line].width
            places.append(places[-1] + (size + 15) // 16 * 16)  # a new one in a new line of cache
        return places

    def _addresses_of_saved(self, saved: Sequence[Tensor], rows: int) -> list[int]:
        return [
            address(tensor) + place * tensor.element_size()
            for tensor in saved
            for place in self._places_of_saved(rows)[:-1]
        ]

    @cached_property
    def _operations(self) -> int:
        """How many multiplications and additions a row takes in products."""
        values = self.program.values
        return sum(2 * v.width * values[v.args[0]].width for v in values if v.op == "product")

    @cached_property
    def _has_relu(self) -> bool:
        return any(value.op == "relu" for value in self.program.values)

    @cached_property
    def _has_above(self) -> list[bool]:
        """Of which states a gradient comes from above, besides that of the last one."""
        states = self.shape.states
        return [k < self.every or length > 1 for k, (_, length) in enumerate(states)]

    @property
    def lengths(self) -> list[int]:
        """Of how many parts each state is, the later ones being what the first was before."""
        return [length for _, length in self.shape.states]

    def evaluate(
        self, p: Tensor, parts: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the new state parts of one step, by torch's own operations."""
        matrices = [w.t() if which in self.transposed else w for which, w in enumerate(weights)]
        return tuple(run_once(self.program, self.lengths, [p, *parts], matrices))

    def forward(self, inputs: Inputs, *, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return every state at every step, and what the backward pass needs beside them, in one.

        Without keep only the first states are there at every step, and of the others, if they are
        read one step back alone, the last two, (2, B, width).
        """
        source, starts, weights, layout = inputs
        rows, like = source.rows, starts[0]
        B, states = like.shape[-2], self.shape.states
        whole = self._whole(keep=keep)
        arrays = [
            like.new_empty((*rows, width) if k < whole else (2, B, width))
            for k, (width, _) in enumerate(states)
        ]
        saved = self.room_for_saved(like, rows.numel()) if keep else []
        binding.use_large_pages((*arrays, *saved))
        program = self._forward_that_keeps if keep else self.forward_program
        starts = _contiguous(starts)
        head, held = self._head(source, B, layout)
        of_x, alive = _input(source)
        of_weights = self._weights(weights)
        of_saved = self._addresses_of_saved(saved, rows.numel())
        arguments = [*map(addresses, (starts, arrays)), of_saved, of_weights, whole]
        try:
            binding.call("loop_forward", like.dtype, program, *head, of_x, *arguments)
        except IndexError:
            sizes = [len(weights[which]) for which in sorted(self.tables)]
            raise BpttError(
                f"a step looks up a row that its table has not, of tables of {sizes} rows; "
                "expected numbers from 0 to one less than that"
            ) from None
        del held, alive
        return arrays, saved

    def _whole(self, *, keep: bool) -> int:
        """Return how many states are there at every step, the others at the last two alone."""
        return len(self.shape.states) if keep else self._fewest

    @cached_property
    def _fewest(self) -> int:
        """How many states are there at every step where none is kept."""
        is_short = all(length == 1 for _, length in self.shape.states[self.every :])
        return self.every if is_short else len(self.shape.states)

    def outputs(
        self, arrays: Sequence[Tensor], inputs: Inputs, *, keep: bool
    ) -> tuple[Tensor, ...]:
        """Return the first states at every step, and of all states the last ones, as starts are."""
        ends, layout, whole = [], inputs.layout, self._whole(keep=keep)
        for k, (array, start) in enumerate(zip(arrays, inputs.starts, strict=True)):
            if self.shape.states[k][1] > 1:
                ends.append(layout.lasts(array, start))
            elif k >= whole:
                ends.append(layout.last_of_two(array, len(arrays[0]), start))
            else:
                ends.append(layout.last(array, start))
        return (*arrays[: self.every], *ends)

    def backward(
        self,
        inputs: Inputs,
        results: tuple[Sequence[Tensor], Sequence[Tensor]],
        grads: Sequence[Tensor | None],
        needs: Needs,
        omega: OmegaTerm | None = None,
    ) -> list[Tensor | None]:
        """Return the gradients of x, U and b, of the starts, and of the weights, where needed.

        results: what `forward` returned. grads: of what `outputs` did.
        """
        (source, starts, weights, layout), (states, saved) = inputs, results
        above, lasts = self._arriving(states, starts, layout, grads)
        arrived = [torch.empty_like(start, **CONTIGUOUS) for start in starts]
        of_x, of_U, of_b = _room_for_source(source, self.shape.p, needs)
        of_weights = self._room_for_weights(weights, needs)
        of_omega = None if omega is None else states[0].new_zeros(1)
        starts = _contiguous(starts)
        head, held = self._head(source, starts[0].shape[-2], layout)
        of_x_and_U, alive = _input(source)
        of_input = [None, None, of_b, of_x] if source.U is None else [of_x, of_U, of_b, None]
        binding.call(
            "loop_backward",
            states[0].dtype,
            self._backward,
            *head,
            of_x_and_U,
            addresses(starts),
            addresses(states),
            self._addresses_of_saved(saved, source.rows.numel()),
            self._weights(weights),
            addresses(above),
            addresses(lasts),
            addresses(arrived),
            addresses(of_input),
            addresses(of_weights),
            [w.numel() for w in weights],
            0.0 if omega is None else omega.weight,
            address(of_omega),
            self._has_relu,
        )
        del held, alive
        if omega is not None and of_omega is not None:
            omega.add(float(of_omega), weights[0])
        if of_U is not None and source.is_tokens:
            of_U = of_U.t()
        return [of_x, of_U, of_b, *arrived, *self._as_weights(of_weights, needs)]

    def _room_for_weights(self, weights: Sequence[Tensor], needs: Needs) -> list[Tensor | None]:
        """Return memory for the weights' gradients: (N, K) of a matrix; of vectors always."""
        return [
            torch.empty_like(w.t() if self._is_turned(which, w) else w, **CONTIGUOUS)
            if needed or w.ndim == 1
            else None
            for which, (w, needed) in enumerate(zip(weights, needs.weights, strict=True))
        ]

    def _as_weights(self, grads: Sequence[Tensor | None], needs: Needs) -> list[Tensor | None]:
        """Return the weights' gradients, where needed, in the weights' shapes."""
        return [
            None
            if grad is None or not needed
            else grad.t()
            if self._is_turned(which, grad)
            else grad
            for which, (grad, needed) in enumerate(zip(grads, needs.weights, strict=True))
        ]

    def _is_turned(self, which: int, weight: Tensor) -> bool:
        """Return whether a weight's gradient comes as its transpose: that of a matrix (K, N)."""
        return weight.ndim == 2 and which not in self.transposed and which not in self.tables

    def _arriving(
        self,
        states: Sequence[Tensor],
        starts: Sequence[Tensor],
        layout: Layout,
        grads: Sequence[Tensor | None],
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Return the gradients of the states at every step, and those of the last ones."""
        above: list[Tensor | None] = []
        lasts: list[Tensor | None] = []
        ends = grads[self.every :]
        for k, (state, start, end) in enumerate(zip(states, starts, ends, strict=True)):
            every = grads[k] if k < self.every else None
            if self.shape.states[k][1] > 1 and end is not None:
                of_state, of_start = _of_lasts(layout, state, start, end)
                every = of_state if every is None else every + of_state
                lasts.append(of_start)
            else:
                lasts.append(None if end is None else end.contiguous())
            if every is None and self._has_above[k]:
                every = torch.zeros_like(state)
            above.append(None if every is None else every.contiguous())
        return above, lasts

    def _weights(self, weights: Sequence[Tensor]) -> list[tuple[int, int, int, int]]:
        """Return where each matrix (K, N) or vector lies, its strides, and K."""
        places = []
        for which, weight in enumerate(weights):
            if weight.ndim == 1:
                places.append((address(weight), 0, weight.stride(0), 1))
            else:
                down, across = (1, 0) if which in self.transposed else (0, 1)
                strides = (weight.stride(down), weight.stride(across))
                places.append((address(weight), *strides, weight.shape[down]))
        return places

    def _head(self, source: Source, B: int, layout: Layout) -> tuple[tuple[Any, ...], Any]:
        """Return how rows lie in time, as the kernel is told, and the tensors that say so."""
        shape, is_tokens = source.rows, source.is_tokens
        rows = shape.numel()
        layout.require(rows, B)
        I = 0 if source.U is None else source.U.shape[1]  # noqa: E741
        if is_tokens:
            binding.require_tokens("x", source.x, I)
        held = layout.held()
        T = shape[0] if layout.batch_sizes is None else len(layout.batch_sizes)
        of_input = 0 if source.U is None or is_tokens else 2 * I * self.shape.p
        threads = binding.threads_for(float(rows) * (self._operations + of_input))
        return (T, B, *addresses(held), layout.reverse, threads, I), held


def _room_for_source(
    source: Source, p: int, needs: Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return memory for the gradients of x, U and b, where needed; that of tokens' U is (I, G)."""
    x, U = source.x, source.U
    of_U = None
    if U is not None and needs.U:
        of_U = torch.empty_like(U.t() if source.is_tokens else U, **CONTIGUOUS)
    like = x if U is None else U
    return (
        torch.empty_like(x, **CONTIGUOUS) if needs.x else None,
        of_U,
        like.new_empty(p) if needs.b else None,
    )


def states_of(parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    """Return states, (B, width) or (length, B, width), from their parts, (B, width) each."""
    states: list[Tensor] = []
    first = 0
    for length in lengths:
        together = parts[first : first + length]
        states.append(together[0] if length == 1 else torch.stack(list(together)))
        first += length
    return states


def parts_of(states: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the parts of states."""
    return tuple(
        part
        for state, length in zip(states, lengths, strict=True)
        for part in ([state] if length == 1 else state.unbind(0))
    )


def _of_lasts(layout: Layout, state: Tensor, start: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a state at every step and before the first, from that of its last."""
    with torch.enable_grad():
        leaves = (state.detach().requires_grad_(), start.detach().requires_grad_())
        lasts = layout.lasts(*leaves)
    gradients = torch.autograd.grad(lasts, leaves, grad, allow_unused=True)
    of_state, of_start = (
        torch.zeros_like(leaf) if part is None else part
        for part, leaf in zip(gradients, leaves, strict=True)
    )
    return of_state, of_start.contiguous()


def _input(source: Source) -> tuple[list[int], Any]:
    """Return the addresses of x, tokens, U, b_ih, b_hh and p; and what must live meanwhile."""
    x, U, *biases = source
    x = x.contiguous()
    if U is None:
        return [0, 0, 0, 0, 0, address(x)], x
    columns, numbers, tokens = (U.t(), None, x) if source.is_tokens else (U, x, None)
    contiguous = [b if b is None else b.contiguous() for b in (columns, *biases)]
    alive = [numbers, tokens, *contiguous]
    return [*addresses(alive), 0], alive


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
