"""The recurrences as torch operations: the native kernel where it serves, else the reference.

The native kernel computes values and first derivatives of float32 and float64 on the CPU. All else
(other devices and dtypes, transforms of torch.func, forward-mode derivatives, torch.compile,
derivatives of derivatives) goes by way of the reference, so that every derivative is right.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from bptt.errors import BpttError
from bptt.kernel import reference
from bptt.kernel.layout import DENSE, Layout

native: Any
try:
    native = importlib.import_module("bptt.kernel.native")
except ImportError as missing:
    native = None
    WHY_NOT_NATIVE = str(missing)

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
WORK_FOR_A_THREAD = 4e6
"""Floating-point operations below which starting a second thread costs more than it brings."""


def elman(
    p: Float[Tensor, "... H"],
    W: Float[Tensor, "H H"],
    h0: Float[Tensor, "B H"],
    *,
    relu: bool = False,
    layout: Layout = DENSE,
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Return hᵗ = f(pᵗ + W hᵗ⁻¹), laid out as p, and each row's last state (Elman 1990)."""
    if _is_native(p, W, h0):
        return _apply(_Elman, p, W, h0, relu, layout)
    return _elman_by_reference(p, W, h0, relu=relu, layout=layout)


def gru(
    p: Float[Tensor, "... G"],
    W: Float[Tensor, "G H"],
    bias: Float[Tensor, " G"],
    h0: Float[Tensor, "B H"],
    *,
    layout: Layout = DENSE,
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Return the states of a gated recurrent unit (Cho et al. 2014) and each row's last."""
    if _is_native(p, W, bias, h0):
        return _apply(_GRU, p, W, bias, h0, layout)
    return _gru_by_reference(p, W, bias, h0, layout=layout)


def _is_native(*tensors: Tensor) -> bool:
    return (
        native is not None
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and all(t.device.type == "cpu" and t.dtype == tensors[0].dtype for t in tensors)
        and tensors[0].dtype in (torch.float32, torch.float64)
        and tensors[0].numel() > 0
    )


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> tuple[Tensor, Tensor]:
    h, last = function.apply(*arguments)
    return h, last


class _Call:
    """One call of the native kernel: the arguments that each of its functions begins with.

    It holds what the addresses among them point to.
    """

    def __init__(self, layout: Layout, p: Tensor, W: Tensor, B: int) -> None:
        self.type = str(p.dtype).removeprefix("torch.")
        sizes, starts = layout.batch_sizes, layout.starts()
        resets = None if layout.resets is None else layout.resets.to(torch.uint8).contiguous()
        self.held = (sizes, starts, resets)
        work = 2.0 * p.numel() * W.shape[1]
        self.head = (
            p.shape[0] if sizes is None else len(sizes),
            B,
            *map(_address, self.held),
            layout.reverse,
            torch.get_num_threads() if work > WORK_FOR_A_THREAD else 1,
            W.shape[1],
        )

    def run(self, name: str, *arguments: Tensor | bool | None) -> None:
        """Call the function `name` with its tensors' addresses."""
        addresses = [_address(argument) for argument in arguments]
        getattr(native, f"{name}_{self.type}")(*self.head, *addresses)


def _address(argument: Tensor | bool | None) -> int:
    if argument is None:
        return 0
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


class _Elman(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p: Tensor, W: Tensor, h0: Tensor, relu: bool, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        ctx.given, ctx.relu, ctx.layout = 3, relu, layout
        given = (p, W, h0)
        p, W, h0 = (tensor.contiguous() for tensor in given)
        h = torch.empty_like(p)
        _Call(layout, p, W, len(h0)).run("elman_forward", W, h0, p, h, relu)
        ctx.save_for_backward(*given, h)
        ctx.set_materialize_grads(False)
        return h, layout.last(h, h0)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        if _wants_more(grad_h, grad_last):
            again = functools.partial(_elman_by_reference, relu=ctx.relu, layout=ctx.layout)
            return *_differentiate(again, ctx, grad_h, grad_last), None, None
        _, W, h0, h = (tensor.contiguous() for tensor in ctx.saved_tensors)
        grad_h, grad_last, grad_h0 = _incoming(grad_h, grad_last, h, h0)
        grad_p = torch.empty_like(h)
        call = _Call(ctx.layout, h, W, len(h0))
        call.run("elman_backward", W, h, grad_h, grad_last, grad_p, grad_h0, ctx.relu)
        grad_W = _outer(grad_p, h, h0, ctx.layout) if ctx.needs_input_grad[1] else None
        return grad_p, grad_W, grad_h0, None, None


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p: Tensor, W: Tensor, bias: Tensor, h0: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        ctx.given, ctx.layout = 4, layout
        given = (p, W, bias, h0)
        p, W, bias, h0 = (tensor.contiguous() for tensor in given)
        gates = torch.empty_like(p)
        h = p.new_empty(*p.shape[:-1], W.shape[1])
        a_n = torch.empty_like(h)
        call = _Call(layout, p, W, len(h0))
        call.run("gru_forward", W, bias, h0, p, gates, a_n, h)
        ctx.save_for_backward(*given, gates, a_n, h)
        ctx.set_materialize_grads(False)
        return h, layout.last(h, h0)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        if _wants_more(grad_h, grad_last):
            again = functools.partial(_gru_by_reference, layout=ctx.layout)
            return *_differentiate(again, ctx, grad_h, grad_last), None
        p, W, _, h0, gates, a_n, h = (tensor.contiguous() for tensor in ctx.saved_tensors)
        grad_h, grad_last, grad_h0 = _incoming(grad_h, grad_last, h, h0)
        grad_p, grad_a_n = torch.empty_like(p), torch.empty_like(h)
        call = _Call(ctx.layout, p, W, len(h0))
        call.run(
            "gru_backward",
            *(W, h0, gates, a_n, h, grad_h, grad_last),
            *(grad_p, grad_a_n, grad_h0),
        )
        # ∂L/∂a is ∂L/∂p but for the last gate, whose a stands behind r.
        grad_a = torch.cat([grad_p[..., : -h.shape[-1]], grad_a_n], dim=-1)
        grad_W = _outer(grad_a, h, h0, ctx.layout) if ctx.needs_input_grad[1] else None
        return grad_p, grad_W, grad_a.flatten(0, -2).sum(0), grad_h0, None


def _elman_by_reference(
    p: Tensor, W: Tensor, h0: Tensor, *, relu: bool, layout: Layout
) -> tuple[Tensor, Tensor]:
    step = reference.elman(W, torch.relu if relu else torch.tanh)
    h, (last,) = reference.unroll(step, p, (h0,), layout)
    return h, last


def _gru_by_reference(
    p: Tensor, W: Tensor, bias: Tensor, h0: Tensor, *, layout: Layout
) -> tuple[Tensor, Tensor]:
    h, (last,) = reference.unroll(reference.gru(W, bias), p, (h0,), layout)
    return h, last


def _wants_more(*grads: Tensor | None) -> bool:
    """Whether the gradient is to be differentiated itself, or comes as a batch of gradients."""
    functorch = torch._C._functorch
    return (
        torch.is_grad_enabled()
        or functorch.peek_interpreter_stack() is not None
        or any(functorch.is_legacy_batchedtensor(grad) for grad in grads if grad is not None)
    )


def _differentiate(
    again: Callable[..., tuple[Tensor, Tensor]], ctx: Any, *grads: Tensor | None
) -> list[Tensor | None]:
    """Return the gradients of what was given, by running the reference and differentiating that."""
    given = ctx.saved_tensors[: ctx.given]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = again(*given)
    reached = [
        (output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None
    ]
    wanted = [tensor for tensor, needed in zip(given, ctx.needs_input_grad, strict=False) if needed]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in reached],
            wanted,
            [grad for _, grad in reached],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(found) if needed else None for needed in ctx.needs_input_grad[: ctx.given]]


def _incoming(
    grad_h: Tensor | None, grad_last: Tensor | None, h: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the gradients that came, ready for the kernel, and one of h⁰ for it to write.

    A row that has no step hands its last state's gradient to its first: they are the same.
    """
    grad_h = torch.zeros_like(h) if grad_h is None else grad_h.contiguous()
    if grad_last is None:
        return grad_h, None, torch.zeros_like(h0)
    return grad_h, grad_last.contiguous(), grad_last.clone(memory_format=torch.contiguous_format)


def _outer(delta: Tensor, h: Tensor, h0: Tensor, layout: Layout) -> Tensor:
    """Return Σₜ δᵗ hᵗ⁻¹ᵀ, (G, H), summed over sequences too, as one large product."""
    if layout.batch_sizes is None and layout.resets is None:
        first, later, earlier = (
            (-1, delta[:-1], h[1:]) if layout.reverse else (0, delta[1:], h[:-1])
        )
        outer = later.flatten(0, 1).t() @ earlier.flatten(0, 1)
        return outer.addmm_(delta[first].t(), h0)
    return delta.flatten(0, -2).t() @ layout.previous(h, h0).flatten(0, -2)


def info() -> dict[str, str]:
    """Return what computes the recurrent layers here, and why.

    >>> sorted(info())
    ['kernel', 'why']
    """
    if native is None:
        return {"kernel": "reference", "why": f"the native kernel is not built: {WHY_NOT_NATIVE}"}
    chosen = native.instruction_set()
    asked = os.environ.get("BPTT_INSTRUCTION_SET")
    why = f"BPTT_INSTRUCTION_SET is {asked}" if asked else "the best that this processor has"
    return {"kernel": chosen, "why": why}


def _share_torchs_threads() -> None:
    """Let the kernel work with the threads that torch's own operations work with, if it can.

    They spin for milliseconds after each operation, so that others would wait for a core.
    """
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        parallel = ctypes.CDLL(str(path)).GOMP_parallel  # torch has it loaded: this is the same one
        native.use_crew(ctypes.cast(parallel, ctypes.c_void_p).value)


def _choose(asked: str | None) -> None:
    """Use the build for the instruction set that the environment asks for, if it does."""
    if native is None or not asked:
        return
    if asked not in INSTRUCTION_SETS:
        raise BpttError(
            f"BPTT_INSTRUCTION_SET is {asked!r}; expected one of {', '.join(INSTRUCTION_SETS)}"
        )
    if not native.use(asked):
        raise BpttError(f"BPTT_INSTRUCTION_SET is {asked!r}; this processor does not have it")


if native is not None:
    _share_torchs_threads()
_choose(os.environ.get("BPTT_INSTRUCTION_SET"))
