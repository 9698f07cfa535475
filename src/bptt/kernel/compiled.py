"""The loop as torch.compile sees it: one operation, and one for its gradient, whatever the cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, library

from bptt.errors import BpttError
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Inputs, Needs, Source
from bptt.kernel.omega import wanted
from bptt.kernel.record import Traced

INPUTS = "Tensor x, Tensor? U, Tensor? b_ih, Tensor? b_hh, Tensor[] starts, Tensor[] tensors"
LAYOUT = "Tensor? batch_sizes, Tensor? resets, bool reverse"


class CompiledStep(NamedTuple):
    """A traced step, and which of the tensors that it is made of there are.

    trace, arguments: called with these, traces it with the numbers that it reads now, if they have
    changed.
    """

    traced: Traced
    present: tuple[bool, ...]
    trace: Callable[..., Traced | str]
    arguments: tuple[Any, ...]

    def prepare(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the step's weights, of those of its tensors that there are."""
        there = iter(tensors)
        return self.traced.prepare([next(there) if is_there else None for is_there in self.present])


STEPS: list[CompiledStep] = []
"""Every step that was compiled: an operation names its own by its place here."""


def register(step: CompiledStep) -> int:
    """Return a step's place among all."""
    if step not in STEPS:
        STEPS.append(step)
    return STEPS.index(step)


def _now(place: int) -> int:
    """Return the place of the same step with the numbers that it reads now.

    torch.compile does not see them, and goes on with the operation that it made.
    """
    step = STEPS[place]
    traced = step.trace(*step.arguments)
    if traced is step.traced:
        return place
    if isinstance(traced, str) or _shapes_of_step(traced) != _shapes_of_step(step.traced):
        raise BpttError(
            "a number that the step of a compiled layer reads has changed, and with it what shapes "
            "it gives and keeps; expected torch.compiler.reset() after such a change"
        )
    return register(step._replace(traced=traced))


def _shapes_of_step(traced: Traced) -> tuple[Any, ...]:
    """Return the shapes of what a step gives and keeps."""
    values = traced.program.values
    return traced.step.shape, [values[line].width for line in traced.step.gradient.saved]


def run(
    place: int,
    source: Source,
    starts: Sequence[Tensor],
    tensors: Sequence[Tensor | None],
    layout: Layout,
) -> list[Tensor]:
    """Return what `loop.run` returns, for the tensors that the step is made of."""
    there = [t for t in tensors if t is not None]
    made: list[Tensor] = _loop(
        place,
        *source,
        list(starts),
        there,
        layout.batch_sizes,
        layout.resets,
        layout.reverse,
    )
    return made[: 1 + len(starts)]


def _compute(place: int, *arguments: Any) -> list[Tensor]:
    """Return h, the last states, every state at every step but h, what is kept, and the place."""
    place = _now(place)
    step, weights = STEPS[place].traced.step, STEPS[place].prepare(arguments[5])
    source, starts, _, layout = _taken_apart(arguments)
    inputs = Inputs(source, starts, weights, layout)
    arrays, saved = step.forward(inputs, keep=True)
    step.clear_gaps(saved, source.rows.numel())  # the same bits each time
    return [*step.outputs(arrays, inputs, keep=True), *arrays[1:], *saved, torch.tensor(place)]


def _taken_apart(
    arguments: Sequence[Any],
) -> tuple[Source, list[Tensor], list[Tensor], Layout]:
    starts, tensors = arguments[4:6]
    return Source(*arguments[:4]), starts, tensors, Layout(*arguments[6:9])


def _shapes(place: int, *arguments: Any) -> list[Tensor]:
    step, (source, starts, _, _) = STEPS[place].traced.step, _taken_apart(arguments)
    rows, like = source.rows, starts[0]
    (width, _), *others = step.shape.states
    arrays = [like.new_empty(*rows, other) for other, _ in others]
    saved = step.room_for_saved(like, rows.numel())
    ends = [start.new_empty(*start.shape) for start in starts]
    which = torch.empty((), dtype=torch.int64, device=like.device)
    return [like.new_empty(*rows, width), *ends, *arrays, *saved, which]


def _compute_gradients(which: Tensor, *arguments: Any) -> list[Tensor]:
    """Return the gradients of the inputs, of no size where they are not needed."""
    step, (source, starts, tensors, layout) = STEPS[int(which)], _taken_apart(arguments)
    states, saved, grads, needs = arguments[9:]
    S, like = len(starts), starts[0]
    with torch.enable_grad():
        leaves = [
            t.detach().requires_grad_(needed)
            for t, needed in zip(tensors, needs[4 + S :], strict=True)
        ]
        weights = step.prepare(leaves)
    asked = Needs(needs[0], needs[1], any(needs[2:4]), tuple(w.requires_grad for w in weights))
    inputs = Inputs(source, starts, [w.detach() for w in weights], layout)
    gradients = step.traced.step.backward(inputs, (states, saved), grads, asked, wanted(tensors))
    of_x, of_U, of_b, *others = gradients
    of_tensors = _through(weights, others[S:], leaves)
    every = [of_x, of_U, of_b, of_b, *others[:S], *of_tensors]
    return [
        grad.clone(memory_format=torch.contiguous_format)
        if grad is not None and needed
        else like.new_zeros(t.shape if needed and t is not None else (0,))
        for grad, needed, t in zip(every, needs, [*source, *starts, *tensors], strict=True)
    ]


def _through(
    weights: Sequence[Tensor], grads: Sequence[Tensor | None], leaves: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of the tensors that weights were made of."""
    reached = [(w, grad) for w, grad in zip(weights, grads, strict=True) if grad is not None]
    wanted = [t for t in leaves if t.requires_grad]
    if not reached or not wanted:
        return [None for _ in leaves]
    roots, seeds = zip(*reached, strict=True)
    grads_of_leaves = iter(torch.autograd.grad(roots, wanted, seeds, allow_unused=True))
    return [next(grads_of_leaves) if t.requires_grad else None for t in leaves]


def _shapes_of_gradients(which: Tensor, *arguments: Any) -> list[Tensor]:
    source, starts, tensors, needs = arguments[:4], arguments[4], arguments[5], arguments[-1]
    like = starts[0]
    return [
        like.new_empty(*t.shape) if needed and t is not None else like.new_empty(0)
        for t, needed in zip([*source, *starts, *tensors], needs, strict=True)
    ]


_loop = library.custom_op(
    "bptt::loop", _compute, mutates_args=(), schema=f"(int step, {INPUTS}, {LAYOUT}) -> Tensor[]"
)
_gradients = library.custom_op(
    "bptt::loop_gradients",
    _compute_gradients,
    mutates_args=(),
    schema=f"(Tensor step, {INPUTS}, {LAYOUT}, Tensor[] states, Tensor[] saved, Tensor?[] grads, "
    "bool[] needs) -> Tensor[]",
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, *source, starts, tensors, batch_sizes, resets, ctx.reverse = inputs
    ctx.counts = len(starts), len(tensors)
    ends = 1 + len(starts)
    ctx.save_for_backward(
        *source, *starts, *tensors, batch_sizes, resets, output[0], *output[ends:]
    )


def _derive(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    S, W = ctx.counts
    saved = list(ctx.saved_tensors)
    source, starts, tensors = saved[:4], saved[4 : 4 + S], saved[4 + S : 4 + S + W]
    batch_sizes, resets, *values, which = saved[4 + S + W :]
    inputs = (*source, starts, tensors, batch_sizes, resets, ctx.reverse)
    needs = [t is not None and t.requires_grad for t in (*source, *starts, *tensors)]
    grad_all = _gradients(which, *inputs, values[:S], values[S:], grads[: 1 + S], needs)
    grad: list[Tensor | None] = [
        g if needed else None for g, needed in zip(grad_all, needs, strict=True)
    ]
    return None, *grad[:4], grad[4 : 4 + S], grad[4 + S :], None, None, None


_loop.register_fake(_shapes)
_gradients.register_fake(_shapes_of_gradients)
_loop.register_autograd(_derive, setup_context=_keep)
