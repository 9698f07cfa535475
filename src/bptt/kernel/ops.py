"""The recurrences as torch operations: the native kernel where it serves, else the reference.

The native kernel computes values and first derivatives of plain tensors of float32 and float64 on
the CPU, whose shapes fit. All else (other devices and dtypes, subclasses of Tensor, transforms of
torch.func, forward-mode derivatives, tracing, derivatives of derivatives) goes by way of the
reference, so that every derivative is right, and what does not fit gets torch's error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel import binding, compiled, reference
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.plain import is_plain, is_traced, is_transformed
from bptt.kernel.reference import PLAIN, Given, Loop

ROWS_AT_ONCE = 256
"""Rows without a loop that are computed one step after the other, while they are in the cache."""


def layer(
    cell: str, given: Given, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Run a layer in one direction over time; return every hᵗ, laid out as x, and the last ones.

    cell: "tanh" or "relu", hᵗ = f(b_ih + U xᵗ + b_hh + W hᵗ⁻¹) (Elman 1990); or "gru" (Cho et al.
    2014). Without W there is no loop, and no last state. Autocast changes no dtype here.
    """
    if _is_autocast(given):
        with torch.autocast(given.x.device.type, enabled=False):
            return layer(cell, _as_weights(given), layout)
    if not is_native(cell, given, layout):
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
    if torch.compiler.is_compiling() or len(given.x) == 0:
        return reference.layer(cell, given)[0].view(*rows, len(b))
    count = len(given.x)
    sizes = torch.full((-(-count // ROWS_AT_ONCE),), ROWS_AT_ONCE, device="cpu")
    sizes[-1] = count - ROWS_AT_ONCE * (len(sizes) - 1)
    h, _ = layer(cell, given, Layout(sizes))
    return h.view(*rows, len(b))


def is_native(cell: str, given: Given, layout: Layout = DENSE, loop: Loop = PLAIN) -> bool:
    """Return whether the native kernel computes this layer here and now."""
    tensors = (*given[1:], *loop[1:])
    dtype = given.weight.dtype
    return (
        binding.native is not None
        and not is_transformed()
        and not is_traced()
        and dtype in (torch.float32, torch.float64)
        and given.x.dtype in (dtype, torch.int64)
        and given.x.numel() > 0
        and all([t is None or t.dtype == dtype for t in tensors])  # noqa: C419 (lists are faster)
        and _is_readable((given.x, *tensors))
        and _fits(cell, given, layout, loop)
    )


def _is_readable(tensors: tuple[Tensor | None, ...]) -> bool:
    if torch.compiler.is_compiling():  # what there is then are stand-ins; the operation looks again
        return all([t is None or t.is_cpu for t in tensors])  # noqa: C419
    return all([is_plain(t) for t in tensors])  # noqa: C419


def _fits(cell: str, given: Given, layout: Layout, loop: Loop) -> bool:
    """Return whether all shapes are what the kernel takes them to be; see `Given` and `Loop`."""
    x, U, W, b_ih, b_hh, h0 = given
    G = len(given.weight)
    is_tokens = not x.is_floating_point()
    width = None if is_tokens else x.shape[-1]
    if U is not None and (U.ndim != 2 or len(U) != G or width not in (None, U.shape[1])):
        return False
    if U is None and width != G:
        return False
    if any([b is not None and b.shape != (G,) for b in (b_ih, b_hh)]):  # noqa: C419
        return False
    dense = 2 if is_tokens else 3
    if x.ndim != (dense if layout.batch_sizes is None else dense - 1):
        return False
    if W is None or h0 is None:
        return W is None and h0 is None and cell != "gru"
    H = h0.shape[-1]
    sizes = (G, len(loop.delays) * H)
    B = x.shape[1] if layout.batch_sizes is None else h0.shape[-2]
    return (
        len(given.weight) == (3 * H if cell == "gru" else H)
        and W.shape == sizes
        and h0.shape[-2] == B
        and all([t is None or t.shape == (H,) for t in loop[1:]])  # noqa: C419
    )


def _is_autocast(given: Given) -> bool:
    return torch.is_autocast_enabled(given.x.device.type)


def _as_weights(given: Given) -> Given:
    """Return everything in the weights' dtype: autocast may have brought x into another."""
    dtype = given.weight.dtype
    return Given(*[t.to(dtype) if t is not None and t.is_floating_point() else t for t in given])  # type: ignore[arg-type]


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
    if _is_autocast(given):
        with torch.autocast(given.x.device.type, enabled=False):
            return looped_layer(cell, _as_weights(given), loop, layout, omega)
    if torch.compiler.is_compiling() or not is_native(cell, given, layout, loop):
        return reference.looped_layer(cell, given, loop, layout)
    if torch.is_grad_enabled() and any([_wants_gradient(t) for t in (*given, *loop[1:])]):  # noqa: C419
        h = _LoopedLayer.apply(*given, *loop[1:], cell, loop.delays, layout, omega)  # type: ignore[no-untyped-call]
    else:
        h, *_ = binding.looped_forward(cell, given, loop, layout)
    assert given.h0 is not None
    return h, layout.lasts(h, given.h0)


def can_omega(cell: str, given: Given, layout: Layout) -> bool:
    """Return whether Ω can be had from the kernel, which needs no listener."""
    return not torch.compiler.is_compiling() and is_native(cell, given, layout)


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
        saved = ctx.saved_tensors  # to be read once: torch.utils.checkpoint sees to that
        given, loop, kept = Given(*saved[:6]), Loop(ctx.delays, *saved[6:9]), saved[9:]
        needs = ctx.needs_input_grad[:9]
        if grad_h is None:
            return (None,) * 13
        if _wants_more(grad_h) or not is_native(ctx.cell, given, ctx.layout, loop):
            if ctx.omega is not None:
                refuse_second_derivative()
            grads = _differentiate(
                lambda *tensors: reference.looped_layer(
                    ctx.cell, Given(*tensors[:6]), Loop(ctx.delays, *tensors[6:]), ctx.layout
                )[:1],
                saved[:9],
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
        saved = ctx.saved_tensors
        given, kept = Given(*saved[:6]), saved[6:]
        needs = ctx.needs_input_grad[:6]
        if _wants_more(grad_h, grad_last) or not is_native(ctx.cell, given, ctx.layout):
            grads = _differentiate(
                lambda *tensors: reference.layer(ctx.cell, Given(*tensors), ctx.layout),
                saved[:6],
                (grad_h, grad_last),
                needs,
            )
        else:
            grads = binding.backward(ctx.cell, given, ctx.layout, kept, (grad_h, grad_last), needs)
        return *grads, None, None


class _Output(torch.autograd.Function):
    """A layer's output as a node of its own: its hooks run only if a gradient reaches it."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, batch_first: bool) -> Tensor:
        ctx.batch_first = batch_first
        return (h.transpose(0, 1) if batch_first else h).detach()  # in-place changes are still seen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.transpose(0, 1) if ctx.batch_first else grad, None


def as_output(h: Float[Tensor, "... D"], *, batch_first: bool) -> Float[Tensor, "... D"]:
    """Return h with its batch first if asked for, as a tensor that is no view of another.

    A user may then detach it in place, and hook it, as they do with torch.nn's.
    """
    if torch.compiler.is_compiling() or is_transformed() or not h.requires_grad:
        return h.transpose(0, 1) if batch_first else h
    output: Tensor = _Output.apply(h, batch_first)  # type: ignore[no-untyped-call]
    return output


def refuse_second_derivative() -> NoReturn:
    """Raise BpttError where Ω is asked for in a gradient that is to be differentiated, or a batch.

    Its gradient is the immediate one, in which the backward pass counts as constant.
    """
    raise BpttError(
        "omega is given in a backward pass with create_graph=True or a batch of gradients; "
        "expected one loss and first derivatives: Ω's gradient takes the backward pass as constant"
    )


def _wants_more(*grads: Tensor | None) -> bool:
    """Whether the gradient is to be differentiated itself, or is not in plain tensors."""
    return torch.is_grad_enabled() or not all([is_plain(grad) for grad in grads])  # noqa: C419


def _differentiate(
    run: Callable[..., tuple[Tensor, ...]],
    tensors: tuple[Tensor | None, ...],
    grads: tuple[Tensor | None, ...],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return the gradients of some tensors, by running the reference and differentiating that.

    It runs on aliases: of two tensors one may have been made of the other, and through the tensors
    themselves the gradient of the one would count as the other's too.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [
            t.view_as(t) if t is not None and needed else t
            for t, needed in zip(tensors, needs, strict=True)
        ]
        outputs = run(*aliases)
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
