"""A step over a whole sequence, natively: its values, and its derivatives of every order.

First derivatives are the gradient's program, run backward in time. All others, and those of batches
of gradients, come from the step's own program, evaluated by torch one step after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Inputs, NativeStep, Needs, Source, parts_of, states_of
from bptt.kernel.omega import refuse_second_derivative, wanted
from bptt.kernel.plain import is_plain
from bptt.kernel.plain_loop import Parts, differentiate, run_steps

States = tuple[Tensor, ...]
"""The first states at every step; then the last, (B, width), or last ones, (length, B, width)."""


def run(step: NativeStep, inputs: Inputs) -> States:
    """Return `step.every` states at every step, and the last ones of all, shaped as the starts."""
    tensors = (*inputs.source, *inputs.starts, *inputs.weights)
    if torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors]):  # noqa: C419
        count = len(inputs.starts)
        outputs: States = _Loop.apply(step, inputs.layout, count, *tensors)  # type: ignore[no-untyped-call]
        return outputs
    arrays, _ = step.forward(inputs, keep=False)
    return step.outputs(arrays, inputs, keep=False)


def run_plainly(step: NativeStep, inputs: Inputs) -> States:
    """Return the same, by torch's own operations, which have every derivative."""
    source, starts, weights, layout = inputs
    parts = parts_of(starts, step.lengths)

    def move(p: Tensor, state: Parts) -> Parts:
        return step.evaluate(p, state, weights)

    states, lasts = run_steps(move, source.p, parts, layout, step.every)
    return (*states, *states_of(lasts, step.lengths))


def _inputs(tensors: Sequence[Any], count: int, layout: Layout) -> Inputs:
    """Return the inputs of a node of the graph, of `count` states, as a step takes them."""
    return Inputs(Source(*tensors[:4]), tensors[4 : 4 + count], tensors[4 + count :], layout)


class _Loop(torch.autograd.Function):
    """The loop as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        step: NativeStep,
        layout: Layout,
        count: int,
        *tensors: Any,
    ) -> States:
        inputs = _inputs(tensors, count, layout)
        arrays, saved = step.forward(inputs, keep=True)
        ctx.step, ctx.layout, ctx.count = step, layout, count
        ctx.save_for_backward(*tensors, *arrays, *saved)
        ctx.set_materialize_grads(False)
        return step.outputs(arrays, inputs, keep=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        step, layout, count = ctx.step, ctx.layout, ctx.count
        saved = ctx.saved_tensors  # to be read once: torch.utils.checkpoint sees to that
        needs = ctx.needs_input_grad[3:]
        tensors, states = saved[: len(needs)], len(needs) + count
        omega = wanted(tensors[4 + count :])
        if torch.is_grad_enabled() or not all([is_plain(t) for t in (*grads, *tensors)]):  # noqa: C419
            if omega is not None:
                refuse_second_derivative()
            gradients = differentiate(
                lambda *aliases: run_plainly(step, _inputs(aliases, count, layout)),
                tensors,
                grads,
                needs,
            )
        else:
            results = saved[len(needs) : states], saved[states:]
            asked = Needs(needs[0], needs[1], needs[2] or needs[3], needs[4 + count :])
            inputs = _inputs(tensors, count, layout)
            of_x, of_U, of_b, *others = step.backward(inputs, results, grads, asked, omega)
            of_biases = [of_b if needed else None for needed in needs[2:4]]  # one, as of any sum
            gradients = [of_x, of_U, *of_biases, *others]
        return None, None, None, *gradients
