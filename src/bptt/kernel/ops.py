"""The recurrences as torch operations: the native kernel where it serves, else the reference.

The native kernel computes values and first derivatives of float32 and float64 on the CPU. All else
(other devices and dtypes, transforms of torch.func, forward-mode derivatives, torch.compile,
derivatives of derivatives) goes by way of the reference, so that every derivative is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from bptt.errors import BpttError
from bptt.kernel import binding, compiled, reference
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.reference import PLAIN, Given, Loop

ROWS_AT_ONCE = 256
"""Rows without a loop that are computed one step after the other, while they are in the cache."""


def layer(
    cell: str, given: Given, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Run a layer in one direction over time; return every hᵗ, laid out as x, and the last ones.

    cell: "tanh" or "relu", hᵗ = f(b_ih + U xᵗ + b_hh + W hᵗ⁻¹) (Elman 1990); or "gru" (Cho et al.
    2014). Without W there is no loop, and no last state.
    """
    if not _is_native(given):
        return reference.layer(cell, given, layout)
    if torch.compiler.is_compiling():
        h, last = compiled.layer(cell, given, layout)
    elif torch.is_grad_enabled() and any([_wants_gradient(t) for t in given]):  # noqa: C419
        h, last = _Layer.apply(*given, cell, layout)  # type: ignore[no-untyped-call]
    else:
        h, last, *_ = binding.forward(cell, given, layout)
    return h, last


def feedforward(
    cell: str, x: Tensor, U: Float[Tensor, "H I"], b: Float[Tensor, " H"]
) -> Float[Tensor, "... H"]:
    """Return h = f(b + U x) of every row of x, (..., I), or token.

    The kernel takes the rows for a sequence of many steps, between which nothing is handed on.
    """
    rows = x.shape if x.dtype == torch.int64 else x.shape[:-1]
    given = Given(x.flatten(0, len(rows) - 1), U, None, b, None, None)
    if torch.compiler.is_compiling() or not _is_native(given):
        return reference.layer(cell, given)[0].view(*rows, len(b))
    count = len(given.x)
    sizes = torch.full((-(-count // ROWS_AT_ONCE),), ROWS_AT_ONCE)
    sizes[-1] = count - ROWS_AT_ONCE * (len(sizes) - 1)
    h, _ = layer(cell, given, Layout(sizes))
    return h.view(*rows, len(b))


def _is_native(given: Given, loop: Loop = PLAIN) -> bool:
    x, W, more = given.x, given.weight, loop[1:]
    return (
        binding.native is not None
        and not torch._C._are_functorch_transforms_active()
        and (torch.compiler.is_compiling() or forward_ad._current_level < 0)
        and W.dtype in (torch.float32, torch.float64)
        and x.dtype in (W.dtype, torch.int64)
        and x.numel() > 0
        and all([t is None or t.is_cpu for t in (*given, *more)])  # noqa: C419 (lists are faster)
        and all([t is None or t.dtype == W.dtype for t in (*given[1:], *more)])  # noqa: C419
    )


def _wants_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


@dataclass
class OmegaTerm:
    """What Ω is to weigh in a backward pass, for each sequence, and what it came to; see remedies.

    value: Σ Ω over the backward passes until now.
    """

    weight: float
    value: float = 0.0


def looped_layer(
    cell: str,
    given: Given,
    loop: Loop = PLAIN,
    layout: Layout = DENSE,
    omega: OmegaTerm | None = None,
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "D B H"]]:
    """Run a tanh or relu layer with more in its loop; return every hᵗ and each row's last D.

    omega: adds its weight times Ω's immediate gradient to that of W, in the first derivative, where
    the loop is plain; see `can_omega`.
    """
    if torch.compiler.is_compiling() or not _is_native(given, loop):
        return reference.looped_layer(cell, given, loop, layout)
    if torch.is_grad_enabled() and any([_wants_gradient(t) for t in (*given, *loop[1:])]):  # noqa: C419
        h = _LoopedLayer.apply(*given, *loop[1:], cell, loop.delays, layout, omega)  # type: ignore[no-untyped-call]
    else:
        h, *_ = binding.looped_forward(cell, given, loop, layout)
    assert given.h0 is not None
    return h, layout.lasts(h, given.h0)


def can_omega(given: Given) -> bool:
    """Return whether Ω can be had from the kernel, which needs no listener."""
    return _is_native(given) and not torch.compiler.is_compiling()


class _LoopedLayer(torch.autograd.Function):
    """The same as `_Layer`, of every hᵗ alone."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        given, (ctx.cell, delays, ctx.layout, ctx.omega) = Given(*arguments[:6]), arguments[9:]
        loop = Loop(delays, *arguments[6:9])
        ctx.delays = delays
        h, *kept = binding.looped_forward(ctx.cell, given, loop, ctx.layout)
        ctx.save_for_backward(*given, *loop[1:], h, *kept)
        ctx.set_materialize_grads(False)
        return h

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: torch.utils.checkpoint computes them again
        given, kept = Given(*saved[:6]), saved[9:]
        loop = Loop(ctx.delays, *saved[6:9])
        needs = ctx.needs_input_grad[:9]
        if grad_h is None:
            return (None,) * 13
        if _wants_more(grad_h):
            if ctx.omega is not None:
                refuse_second_derivative()
            tensors = (*given, *loop[1:])
            grads = _differentiate(
                lambda: reference.looped_layer(ctx.cell, given, loop, ctx.layout)[:1],
                tensors,
                (grad_h,),
                needs,
            )
        else:
            run = (ctx.cell, given, loop, ctx.layout)
            weight = 0.0 if ctx.omega is None else ctx.omega.weight
            grads, value = binding.looped_backward(*run, kept, grad_h, needs=needs, omega=weight)
            if ctx.omega is not None:
                ctx.omega.value += value
        return *grads, None, None, None, None


class _Layer(torch.autograd.Function):
    """The layer, with its first derivatives by the kernel and all others by the reference."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        given = Given(*arguments[:6])
        ctx.cell, ctx.layout = arguments[6:]
        h, last, *kept = binding.forward(ctx.cell, given, ctx.layout)
        ctx.save_for_backward(*given, h, *kept)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: torch.utils.checkpoint computes them again
        given, kept = Given(*saved[:6]), saved[6:]
        needs = ctx.needs_input_grad[:6]
        if _wants_more(grad_h, grad_last):
            grads = _differentiate(
                lambda: reference.layer(ctx.cell, given, ctx.layout),
                given,
                (grad_h, grad_last),
                needs,
            )
        else:
            grads = binding.backward(ctx.cell, given, ctx.layout, kept, (grad_h, grad_last), needs)
        return *grads, None, None


def refuse_second_derivative() -> NoReturn:
    """Raise BpttError where Ω is asked for in a gradient that is to be differentiated, or a batch.

    Its gradient is the immediate one, in which the backward pass counts as constant.
    """
    raise BpttError(
        "omega is given in a backward pass with create_graph=True or a batch of gradients; "
        "expected one loss and first derivatives: Ω's gradient takes the backward pass as constant"
    )


def _wants_more(*grads: Tensor | None) -> bool:
    """Whether the gradient is to be differentiated itself, or comes as a batch of gradients."""
    is_batch = torch._C._functorch.is_legacy_batchedtensor
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or any([grad is not None and is_batch(grad) for grad in grads])  # noqa: C419
    )


def _differentiate(
    run: Callable[[], tuple[Tensor, ...]],
    given: tuple[Tensor | None, ...],
    grads: tuple[Tensor | None, ...],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return the gradients of what was given, by running the reference and differentiating that."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = run()
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
