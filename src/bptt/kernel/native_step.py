"""A traced step, run natively: its programs made ready once, and called with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bptt.kernel import binding
from bptt.kernel.layout import Layout
from bptt.kernel.lower import NOTHING, Lowered, Shape, lower_backward, lower_forward
from bptt.kernel.omega import OmegaTerm
from bptt.kernel.program import Program, fuse, run_once
from bptt.kernel.rules import Backward, reverse


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
    def bias(self) -> Tensor | None:
        """What is added to U x."""
        if self.b_ih is None or self.b_hh is None:
            return self.b_hh if self.b_ih is None else self.b_ih
        return self.b_ih + self.b_hh

    def to(self, dtype: torch.dtype) -> Source:
        """Return it in another dtype, but for tokens."""
        rest = [None if t is None else t.to(dtype) for t in self[1:]]
        return Source(self.x if self.is_tokens else self.x.to(dtype), *rest)

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

    transposed: of which weights the tensors are (N, K), as torch's layers have them.
    """

    program: Program
    shape: Shape
    transposed: frozenset[int] = frozenset()

    @cached_property
    def gradient(self) -> Backward:
        """The program of the gradient."""
        backward = reverse(self.program)
        return replace(backward, program=fuse(backward.program))

    @cached_property
    def _forward(self) -> Any:
        return _encoded(lower_forward(fuse(self.program), self.shape), self.shape)

    @cached_property
    def _forward_that_keeps(self) -> Any:
        fused, lines = _fused_with(self.program, self.gradient.saved)
        return _encoded(lower_forward(fused, self.shape, lines), self.shape)

    @cached_property
    def _backward(self) -> Any:
        return _encoded(lower_backward(self.gradient, self.shape), self.shape)

    @cached_property
    def saved_widths(self) -> list[int]:
        """How wide each value is that the forward pass keeps for the gradient."""
        return [self.program.values[line].width for line in self.gradient.saved]

    @cached_property
    def _operations(self) -> int:
        """How many multiplications and additions a row takes in products."""
        values = self.program.values
        return sum(2 * v.width * values[v.args[0]].width for v in values if v.op == "product")

    @cached_property
    def _is_given(self) -> list[bool]:
        """Of which states a gradient comes from above, besides that of the last one."""
        return [k == 0 or length > 1 for k, (_, length) in enumerate(self.shape.states)]

    def evaluate(
        self, p: Tensor, parts: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the new state parts of one step, by torch's own operations."""
        matrices = [w.t() if which in self.transposed else w for which, w in enumerate(weights)]
        return tuple(
            run_once(
                self.program, [length for _, length in self.shape.states], [p, *parts], matrices
            )
        )

    def forward(self, inputs: Inputs, *, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return every state at every step, and what the backward pass needs beside them.

        Without keep only the first state is there at every step, and of the others, if they are
        read one step back alone, the last two, (2, B, width).
        """
        source, starts, weights, layout = inputs
        rows, like = source.rows, starts[0]
        states = self.shape.states
        is_ring = self._is_ring(keep=keep)
        arrays = [like.new_empty(*rows, states[0][0])]
        for width, _ in states[1:]:
            some = (2, starts[0].shape[-2]) if is_ring else rows
            arrays.append(like.new_empty(*some, width))
        saved = [like.new_empty(*rows, width) for width in self.saved_widths] if keep else []
        program = self._forward_that_keeps if keep else self._forward
        starts = _contiguous(starts)
        head, held = self._head(source, starts[0].shape[-2], layout)
        of_x, alive = _input(source)
        of_weights = self._weights(weights)
        rest = (_addresses(starts), _addresses(arrays), _addresses(saved), of_weights, is_ring)
        binding.call("loop_forward", like.dtype, program, *head, of_x, *rest)
        del held, alive
        return arrays, saved

    def _is_ring(self, *, keep: bool) -> bool:
        """Return whether of the states but the first only those of the last two steps are there."""
        return not keep and all([length == 1 for _, length in self.shape.states[1:]])  # noqa: C419

    def outputs(
        self, arrays: Sequence[Tensor], inputs: Inputs, *, keep: bool
    ) -> tuple[Tensor, ...]:
        """Return the first state at every step, and of all states the last ones, as starts are."""
        ends, layout, is_ring = [], inputs.layout, self._is_ring(keep=keep)
        for k, (array, start) in enumerate(zip(arrays, inputs.starts, strict=True)):
            if self.shape.states[k][1] > 1:
                ends.append(layout.lasts(array, start))
            elif k > 0 and is_ring:
                ends.append(layout.last_of_two(array, len(arrays[0]), start))
            else:
                ends.append(layout.last(array, start))
        return (arrays[0], *ends)

    def backward(
        self,
        inputs: Inputs,
        kept: tuple[Sequence[Tensor], Sequence[Tensor]],
        grads: Sequence[Tensor | None],
        needs: Needs,
        omega: OmegaTerm | None = None,
    ) -> list[Tensor | None]:
        """Return the gradients of x, U and b, of the starts, and of the weights, where needed.

        kept: what `forward` returned. grads: of what `outputs` did.
        """
        (source, starts, weights, layout), (states, saved) = inputs, kept
        like, x = states[0], source.x
        given, arrived = self._arriving(states, starts, layout, grads)
        grad_x = x.new_empty(x.shape) if needs.x else None
        grad_U = None
        if source.U is not None and needs.U:
            grad_U = like.new_empty(source.U.shape[::-1] if source.is_tokens else source.U.shape)
        grad_b = like.new_empty(self.shape.p) if needs.b else None
        of_weights = [
            like.new_empty(w.shape if w.ndim == 1 or which in self.transposed else w.shape[::-1])
            if needed or w.ndim == 1
            else None
            for which, (w, needed) in enumerate(zip(weights, needs.weights, strict=True))
        ]
        of_omega = torch.zeros(1, dtype=like.dtype) if omega is not None else None
        starts = _contiguous(starts)
        head, held = self._head(source, starts[0].shape[-2], layout)
        of_x, alive = _input(source)
        of_input = (
            [None, None, grad_b, grad_x] if source.U is None else [grad_x, grad_U, grad_b, None]
        )
        binding.call(
            "loop_backward",
            like.dtype,
            self._backward,
            *head,
            of_x,
            _addresses(starts),
            _addresses(states),
            _addresses(saved),
            self._weights(weights),
            _addresses(given),
            _addresses(arrived),
            _addresses(of_input),
            _addresses(of_weights),
            [w.numel() for w in weights],
            0.0 if omega is None else omega.weight,
            binding.address(of_omega),
            any(v.op == "relu" for v in self.program.values),
        )
        del held, alive
        if omega is not None and of_omega is not None:
            omega.value += float(of_omega)
        if grad_U is not None and source.is_tokens:
            grad_U = grad_U.t()
        found = [
            None
            if grad is None or not needed
            else grad
            if grad.ndim == 1 or which in self.transposed
            else grad.t()
            for which, (grad, needed) in enumerate(zip(of_weights, needs.weights, strict=True))
        ]
        return [grad_x, grad_U, grad_b, *arrived, *found]

    def _arriving(
        self,
        states: Sequence[Tensor],
        starts: Sequence[Tensor],
        layout: Layout,
        grads: Sequence[Tensor | None],
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Return the gradients of the states at every step, and those that arrive after the last.

        The latter become those of the starts.
        """
        given: list[Tensor | None] = []
        arrived: list[Tensor] = []
        for k, (state, start, end) in enumerate(zip(states, starts, grads[1:], strict=True)):
            every = grads[0] if k == 0 else None
            if self.shape.states[k][1] > 1 and end is not None:
                of_state, of_start = _of_lasts(layout, state, start, end)
                every = of_state if every is None else every + of_state
                arrived.append(of_start)
            else:
                arrived.append(start.new_zeros(start.shape) if end is None else _copy(end))
            if every is None and self._is_given[k]:
                every = torch.zeros_like(state)
            given.append(None if every is None else every.contiguous())
        return given, arrived

    def _weights(self, weights: Sequence[Tensor]) -> list[tuple[int, int, int, int]]:
        """Return where each matrix (K, N) or vector lies, its strides, and K."""
        found = []
        for which, weight in enumerate(weights):
            if weight.ndim == 1:
                found.append((binding.address(weight), 0, weight.stride(0), 1))
            else:
                down, across = (1, 0) if which in self.transposed else (0, 1)
                strides = (weight.stride(down), weight.stride(across))
                found.append((binding.address(weight), *strides, weight.shape[down]))
        return found

    def _head(self, source: Source, B: int, layout: Layout) -> tuple[tuple[Any, ...], Any]:
        """Return how rows lie in time, as the kernel is told, and the tensors that say so."""
        rows = source.rows.numel()
        layout.require(rows, B)
        I = 0 if source.U is None else source.U.shape[1]  # noqa: E741
        if source.is_tokens:
            binding.require_tokens("x", source.x, I)
        held = layout.held()
        T = source.rows[0] if layout.batch_sizes is None else len(layout.batch_sizes)
        of_input = 0 if source.U is None or source.is_tokens else 2 * I * self.shape.p
        threads = binding.threads_for(float(rows) * (self._operations + of_input))
        return (T, B, *map(binding.address, held), layout.reverse, threads, I), held


def _of_lasts(layout: Layout, state: Tensor, start: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a state at every step and before the first, from that of its last."""
    with torch.enable_grad():
        leaves = (state.detach().requires_grad_(), start.detach().requires_grad_())
        lasts = layout.lasts(*leaves)
    found = torch.autograd.grad(lasts, leaves, grad, allow_unused=True)
    of_state, of_start = (
        torch.zeros_like(leaf) if part is None else part
        for part, leaf in zip(found, leaves, strict=True)
    )
    return of_state, of_start.contiguous()


def _input(source: Source) -> tuple[list[int], Any]:
    """Return the addresses of x, tokens, U, b and p, and what must live while they are used."""
    x, U = source.x.contiguous(), source.U
    if U is None:
        return [0, 0, 0, 0, binding.address(x)], x
    bias = source.bias
    bias = None if bias is None else bias.contiguous()
    if source.is_tokens:
        columns = U.t().contiguous()
        return [0, *map(binding.address, (x, columns, bias)), 0], (x, columns, bias)
    U = U.contiguous()
    return [binding.address(x), 0, binding.address(U), binding.address(bias), 0], (x, U, bias)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [binding.address(tensor) for tensor in tensors]


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _fused_with(program: Program, lines: Sequence[int]) -> tuple[Program, list[int]]:
    """Return a program with fused operations that still has some lines, and where they are."""
    marked = Program(
        program.values, {**program.results, **{("kept", i): line for i, line in enumerate(lines)}}
    )
    fused = fuse(marked)
    results = {name: line for name, line in fused.results.items() if name[0] != "kept"}
    return Program(fused.values, results), [fused.results["kept", i] for i in range(len(lines))]


def _encoded(lowered: Lowered, shape: Shape) -> Any:
    """Return the native kernel's own tables of a lowered program."""
    instructions, stages, products, parts, blocks, groups = (list[list[int]]() for _ in range(6))
    constants = list(lowered.constants)
    for code, multiplied in lowered.stages:
        stages.append([len(instructions), len(code), len(products), len(multiplied)])
        for i in code:
            if i.number not in constants:
                constants.append(i.number)
            args = [*i.args, *[NOTHING] * (3 - len(i.args))]
            operands = [n for operand in (i.out, *args) for n in operand]
            instructions.append([i.op, i.width, *operands, constants.index(i.number)])
        for product in multiplied:
            ranges = [len(blocks), len(product.blocks), len(parts), len(product.parts)]
            products.append([*product.z, int(product.is_back), *ranges])
            blocks += [list(block) for block in product.blocks]
            parts += [[*part.out, part.width, *part.rows, *part.vector] for part in product.parts]
    for group in lowered.groups:
        groups.append([group.deltas, *group.z, len(blocks), len(group.blocks)])
        blocks += [list(block) for block in group.blocks]
    arrays = [list(map(int, array)) for array in lowered.arrays]
    states = [list(state) for state in shape.states]
    tables = (states, arrays, instructions, stages, products, parts, blocks, groups, constants)
    return binding.native.Program(shape.p, lowered.of_p, *tables)
