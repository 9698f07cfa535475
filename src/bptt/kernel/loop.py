"""A step over a whole sequence, natively: its values, and its derivatives of every order.

First derivatives are the gradient's program, run backward in time. All others, and those of batches
of gradients, come from the step's own program, evaluated by torch one step after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bptt.kernel.layout import Layout
from bptt.kernel.native_step import NativeStep, Needs, Source
from bptt.kernel.omega import OmegaTerm, refuse_second_derivative
from bptt.kernel.plain import is_plain
from bptt.kernel.plain_loop import project, unroll

States = tuple[Tensor, ...]
"""h at every step; then of each state its last, (B, width), or last ones, (length, B, width)."""


def run(
    step: NativeStep,
    source: Source,
    starts: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: Layout,
    omega: OmegaTerm | None = None,
) -> States:
    """Return the first state at every step, and the last ones of all. starts: as the last ones."""
    tensors = (*source, *starts, *weights)
    if torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors]):  # noqa: C419
        outputs: States = _Loop.apply(step, layout, omega, len(starts), *tensors)  # type: ignore[no-untyped-call]
        return outputs
    arrays, _ = step.forward(source, starts, weights, layout, keep=False)
    return step.outputs(arrays, starts, layout)


def run_plainly(
    step: NativeStep,
    source: Source,
    starts: Sequence[Tensor],
    weights: Sequence[Tensor],
    layout: Layout,
) -> States:
    """Return the same, by torch's own operations, which have every derivative."""
    p = source.x if source.U is None else project(source.x, source.U, source.bias)
    lengths = [length for _, length in step.shape.states]
    parts = [
        part
        for start, length in zip(starts, lengths, strict=True)
        for part in ([start] if length == 1 else start.unbind(0))
    ]
    h, lasts = unroll(lambda p, state: step.evaluate(p, state, weights), p, tuple(parts), layout)
    ends, first = [], 0
    for length in lengths:
        ends.append(lasts[first] if length == 1 else torch.stack(lasts[first : first + length]))
        first += length
    return (h, *ends)


class _Loop(torch.autograd.Function):
    """The loop as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        step: NativeStep,
        layout: Layout,
        omega: OmegaTerm | None,
        count: int,
        *tensors: Any,
    ) -> States:
        source, starts, weights = Source(*tensors[:4]), tensors[4 : 4 + count], tensors[4 + count :]
        arrays, saved = step.forward(source, starts, weights, layout, keep=True)
        ctx.step, ctx.layout, ctx.omega, ctx.count = step, layout, omega, count
        ctx.save_for_backward(*tensors, *arrays, *saved)
        ctx.set_materialize_grads(False)
        return step.outputs(arrays, starts, layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        step, layout, count = ctx.step, ctx.layout, ctx.count
        saved = ctx.saved_tensors  # to be read once: torch.utils.checkpoint sees to that
        needs = ctx.needs_input_grad[4:]
        inputs, arrays, kept = (
            saved[: len(needs)],
            saved[len(needs) : len(needs) + count],
            saved[len(needs) + count :],
        )
        if torch.is_grad_enabled() or not all([is_plain(t) for t in (*grads, *inputs)]):  # noqa: C419
            if ctx.omega is not None:
                refuse_second_derivative()
            found = differentiate(
                lambda *tensors: run_plainly(
                    step, Source(*tensors[:4]), tensors[4 : 4 + count], tensors[4 + count :], layout
                ),
                inputs,
                grads,
                needs,
            )
        else:
            source, starts, weights = (
                Source(*inputs[:4]),
                inputs[4 : 4 + count],
                inputs[4 + count :],
            )
            found = step.backward(
                source,
                starts,
                weights,
                layout,
                arrays,
                kept,
                grads,
                Needs(needs[0], needs[1], needs[2] or needs[3], needs[4 + count :]),
                ctx.omega,
            )
            of_x, of_U, of_b, *others = found
            found = [of_x, of_U, *_of_biases(of_b, needs[2], needs[3]), *others]
        return None, None, None, None, *found


def _of_biases(grad: Tensor | None, *needs: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of two biases that are added."""
    if grad is None:
        return None, None
    return grad if needs[0] else None, (grad.clone() if needs[0] else grad) if needs[1] else None


def differentiate(
    compute: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of some tensors, by running a function and differentiating that.

    It runs on aliases: of two tensors one may have been made of the other, and through the tensors
    themselves the gradient of the one would count as the other's too.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [
            t.view_as(t) if t is not None and needed else t
            for t, needed in zip(tensors, needs, strict=True)
        ]
        outputs = compute(*aliases)
    reached = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [t for t, needed in zip(aliases, needs, strict=True) if needed and t is not None]
    gradients = iter(
        torch.autograd.grad(
            [output for output, _ in reached],
            wanted,
            [grad for _, grad in reached],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(gradients) if needed else None for needed in needs]
