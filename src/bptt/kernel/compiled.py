"""The loop as torch.compile sees it: one operation, and one for its gradient, whatever the cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from bptt.kernel.layout import Layout
from bptt.kernel.native_step import NativeStep, Needs, Source

GIVEN = "Tensor x, Tensor? U, Tensor? b_ih, Tensor? b_hh, Tensor[] starts, Tensor[] weights"
LAYOUT = "Tensor? batch_sizes, Tensor? resets, bool reverse"

STEPS: list[NativeStep] = []
"""Every step that was compiled: an operation names its own by its place here."""


def register(step: NativeStep) -> int:
    """Return a step's place among all."""
    STEPS.append(step)
    return len(STEPS) - 1


def run(
    place: int, source: Source, starts: Sequence[Tensor], weights: Sequence[Tensor], layout: Layout
) -> list[Tensor]:
    """Return what `loop.run` returns."""
    made = _loop(
        place,
        *source,
        list(starts),
        list(weights),
        layout.batch_sizes,
        layout.resets,
        layout.reverse,
    )
    return made[: 1 + len(starts)]


def _compute(place: int, *arguments: Any) -> list[Tensor]:
    """Return h, the last states, every state at every step but h, and what is kept."""
    step, (source, starts, weights, layout) = STEPS[place], _taken_apart(arguments)
    arrays, saved = step.forward(source, starts, weights, layout, keep=True)
    return [*step.outputs(arrays, starts, layout), *arrays[1:], *saved]


def _taken_apart(arguments: Sequence[Any]) -> tuple[Source, list[Tensor], list[Tensor], Layout]:
    starts, weights = arguments[4:6]
    return Source(*arguments[:4]), starts, weights, Layout(*arguments[6:9])


def _shapes(place: int, *arguments: Any) -> list[Tensor]:
    step, (source, starts, _, _) = STEPS[place], _taken_apart(arguments)
    rows, like = source.rows, starts[0]
    (width, _), *others = step.shape.states
    arrays = [like.new_empty(*rows, other) for other, _ in others]
    saved = [like.new_empty(*rows, kept) for kept in step.saved_widths]
    ends = [start.new_empty(*start.shape) for start in starts]
    return [like.new_empty(*rows, width), *ends, *arrays, *saved]


def _compute_gradients(place: int, *arguments: Any) -> list[Tensor]:
    """Return the gradients of what was given, of no size where they are not needed."""
    step, (source, starts, weights, layout) = STEPS[place], _taken_apart(arguments)
    states, saved, grads, needs = arguments[9:]
    of_source, of_starts, of_weights = (
        needs[:4],
        needs[4 : 4 + len(starts)],
        needs[4 + len(starts) :],
    )
    wanted = Needs(of_source[0], of_source[1], any(of_source[2:]), tuple(of_weights))
    found = step.backward(source, starts, weights, layout, states, saved, grads, wanted)
    found = [*found[:2], found[2], found[2], *found[3:]]
    needed = [*of_source, *of_starts, *of_weights]
    like = starts[0]
    return [
        like.new_empty(0)
        if grad is None or not need
        else grad.clone(memory_format=torch.contiguous_format)
        for grad, need in zip(found, needed, strict=True)
    ]


def _shapes_of_gradients(place: int, *arguments: Any) -> list[Tensor]:
    source, starts, weights, needs = arguments[:4], arguments[4], arguments[5], arguments[-1]
    like = starts[0]
    return [
        like.new_empty(*t.shape) if needed and t is not None else like.new_empty(0)
        for t, needed in zip([*source, *starts, *weights], needs, strict=True)
    ]


_loop = library.custom_op(
    "bptt::loop", _compute, mutates_args=(), schema=f"(int step, {GIVEN}, {LAYOUT}) -> Tensor[]"
)
_gradients = library.custom_op(
    "bptt::loop_gradients",
    _compute_gradients,
    mutates_args=(),
    schema=f"(int step, {GIVEN}, {LAYOUT}, Tensor[] states, Tensor[] saved, Tensor?[] grads, "
    "bool[] needs) -> Tensor[]",
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.place, *source, starts, weights, batch_sizes, resets, ctx.reverse = inputs
    ctx.counts = len(starts), len(weights)
    ends = 1 + len(starts)
    ctx.save_for_backward(
        *source, *starts, *weights, batch_sizes, resets, output[0], *output[ends:]
    )


def _derive(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    S, W = ctx.counts
    saved = list(ctx.saved_tensors)
    source, starts, weights = saved[:4], saved[4 : 4 + S], saved[4 + S : 4 + S + W]
    batch_sizes, resets, *kept = saved[4 + S + W :]
    given = (*source, starts, weights, batch_sizes, resets, ctx.reverse)
    needs = [t is not None and t.requires_grad for t in (*source, *starts, *weights)]
    found = _gradients(ctx.place, *given, kept[:S], kept[S:], grads[: 1 + S], needs)
    grad: list[Tensor | None] = [
        g if needed else None for g, needed in zip(found, needs, strict=True)
    ]
    return None, *grad[:4], grad[4 : 4 + S], grad[4 + S :], None, None, None


_loop.register_fake(_shapes)
_gradients.register_fake(_shapes_of_gradients)
_loop.register_autograd(_derive, setup_context=_keep)
