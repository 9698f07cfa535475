"""The layer as torch.compile sees it: one operation, and one for its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor, library

from bptt.kernel import binding
from bptt.kernel.layout import Layout
from bptt.kernel.reference import Given

GIVEN = "str cell, Tensor x, Tensor? U, Tensor W, Tensor? b_ih, Tensor? b_hh, Tensor h0"
LAYOUT = "Tensor? batch_sizes, Tensor? resets, bool reverse"


def layer(cell: str, given: Given, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return what `ops.layer` returns."""
    h, last, *_ = _layer(cell, *given, layout.batch_sizes, layout.resets, layout.reverse)
    return h, last


def _compute(cell: str, *arguments: Any) -> tuple[Tensor, ...]:
    """Return h, the last states, and what "gru" keeps for its gradient, else nothing, twice."""
    given, layout = Given(*arguments[:6]), Layout(*arguments[6:])
    h, last, *kept = binding.forward(cell, given, layout)
    return h, last, *(kept or (h.new_empty(0), h.new_empty(0)))


def _shapes(cell: str, *arguments: Any) -> tuple[Tensor, ...]:
    x, _, W, _, _, h0 = Given(*arguments[:6])
    assert W is not None  # a layer without a loop is left to the compiler
    assert h0 is not None
    G, H = W.shape
    rows = x.shape[:-1] if x.is_floating_point() else x.shape
    kept = [(*rows, G), (*rows, H)] if cell == "gru" else [(0,), (0,)]
    return W.new_empty(*rows, H), h0.new_empty(*h0.shape), *(W.new_empty(*size) for size in kept)


def _compute_gradients(cell: str, *arguments: Any) -> list[Tensor]:
    """Return the gradients of what was given, of no size where they are not needed."""
    given, layout = Given(*arguments[:6]), Layout(*arguments[6:9])
    h, gates, a_n, grad_h, grad_last, needs = arguments[9:]
    kept = (h, gates, a_n) if cell == "gru" else (h,)
    found = binding.backward(cell, given, layout, kept, (grad_h, grad_last), tuple(needs))
    return [
        h.new_empty(0) if grad is None or not needed else grad.contiguous()
        for grad, needed in zip(found, needs, strict=True)
    ]


def _shapes_of_gradients(cell: str, *arguments: Any) -> list[Tensor]:
    given, needs, W = arguments[:6], arguments[-1], arguments[2]
    return [
        W.new_empty(*t.shape) if needed else W.new_empty(0)
        for t, needed in zip(given, needs, strict=True)
    ]


_layer = library.custom_op(
    "bptt::layer",
    _compute,
    mutates_args=(),
    schema=f"({GIVEN}, {LAYOUT}) -> (Tensor, Tensor, Tensor, Tensor)",
)
_gradients = library.custom_op(
    "bptt::layer_gradients",
    _compute_gradients,
    mutates_args=(),
    schema=f"({GIVEN}, {LAYOUT}, Tensor h, Tensor gates, Tensor a_n, "
    "Tensor? grad_h, Tensor? grad_last, bool[] needs) -> Tensor[]",
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell, *tensors, ctx.reverse = inputs
    h, _, *kept = output
    ctx.save_for_backward(*tensors, h, *kept)
    ctx.set_materialize_grads(False)


def _derive(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, *_: Any) -> tuple[Any, ...]:
    *given, batch_sizes, resets, h, gates, a_n = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[1:7])
    layout, kept = (batch_sizes, resets, ctx.reverse), (h, gates, a_n)
    found = _gradients(ctx.cell, *given, *layout, *kept, grad_h, grad_last, needs)
    grads = [grad if needed else None for grad, needed in zip(found, needs, strict=True)]
    return None, *grads, None, None, None


_layer.register_fake(_shapes)
_gradients.register_fake(_shapes_of_gradients)
_layer.register_autograd(_derive, setup_context=_keep)
