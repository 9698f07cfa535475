"""The recurrences as torch operations: the native kernel where it serves, else the reference.

The native kernel computes values and first derivatives of float32 and float64 on the CPU. All else
(other devices and dtypes, transforms of torch.func, forward-mode derivatives, torch.compile,
derivatives of derivatives) goes by way of the reference, so that every derivative is right.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from bptt.kernel import binding, compiled, reference
from bptt.kernel.binding import Given
from bptt.kernel.layout import DENSE, Layout


def layer(
    cell: str,
    x: Float[Tensor, "... K"],
    U: Float[Tensor, "G I"] | None,
    W: Float[Tensor, "G H"],
    b_ih: Float[Tensor, " G"] | None,
    b_hh: Float[Tensor, " G"] | None,
    h0: Float[Tensor, "B H"],
    layout: Layout = DENSE,
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Run one layer in one direction over time; return every hᵗ, laid out as x, and the last ones.

    cell: "tanh" or "relu", hᵗ = f(b_ih + U xᵗ + b_hh + W hᵗ⁻¹) (Elman 1990); or "gru" (Cho et al.
    2014). Where U is None, x is b + U x already: for tanh and relu with both biases, which are then
    None; for "gru" with b_ih.
    """
    given = (x, U, W, b_ih, b_hh, h0)
    if not _is_native(given):
        return reference.layer(cell, *given, layout)
    if torch.compiler.is_compiling():
        h, last = compiled.layer(cell, given, layout)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        h, last = _Layer.apply(*given, cell, layout)  # type: ignore[no-untyped-call]
    else:
        h, last, *_ = binding.forward(cell, given, layout)
    return h, last


def _is_native(given: Given) -> bool:
    x = given[0]
    return (
        binding.native is not None
        and torch._C._functorch.peek_interpreter_stack() is None
        and (torch.compiler.is_compiling() or forward_ad._current_level < 0)
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and all(t is None or (t.device.type == "cpu" and t.dtype == x.dtype) for t in given)
    )


class _Layer(torch.autograd.Function):
    """The layer, with its first derivatives by the kernel and all others by the reference."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        given: Given = arguments[:6]  # type: ignore[assignment]
        ctx.cell, ctx.layout = arguments[6:]
        h, last, *kept = binding.forward(ctx.cell, given, ctx.layout)
        ctx.save_for_backward(*given, h, *kept)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        given, kept = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        needs = ctx.needs_input_grad[:6]
        if _wants_more(grad_h, grad_last):
            grads = _differentiate(ctx.cell, given, ctx.layout, (grad_h, grad_last), needs)
        else:
            grads = binding.backward(ctx.cell, given, ctx.layout, kept, (grad_h, grad_last), needs)
        return *grads, None, None


def _wants_more(*grads: Tensor | None) -> bool:
    """Whether the gradient is to be differentiated itself, or comes as a batch of gradients."""
    functorch = torch._C._functorch
    return (
        torch.is_grad_enabled()
        or functorch.peek_interpreter_stack() is not None
        or any(functorch.is_legacy_batchedtensor(grad) for grad in grads if grad is not None)
    )


def _differentiate(
    cell: str,
    given: Given,
    layout: Layout,
    grads: tuple[Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return the gradients of what was given, by running the reference and differentiating that."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = reference.layer(cell, *given, layout)
    reached = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [t for t, needed in zip(given, needs, strict=True) if needed and t is not None]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in reached],
            wanted,
            [grad for _, grad in reached],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(found) if needed else None for needed in needs]
