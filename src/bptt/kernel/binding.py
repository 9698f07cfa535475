"""The native kernel, called with tensors: how it is found, chosen, and given its memory."""

from __future__ import annotations

import ctypes
import importlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel.layout import Layout
from bptt.kernel.plain import bystanders
from bptt.kernel.reference import PLAIN, Given, Loop

native: Any
try:
    native = importlib.import_module("bptt.kernel.native")
except ImportError as missing:
    native = None
    WHY_NOT_NATIVE = str(missing)

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
WORK_FOR_A_THREAD = 4e6
"""Floating-point operations below which starting a second thread costs more than it brings."""


def forward(cell: str, given: Given, layout: Layout) -> tuple[Tensor, ...]:
    """Return h, the last states, and what else the kernel's backward needs."""
    given = _contiguous(given)
    x, U, W, b_ih, b_hh, h0 = given
    G, H = _widths(given)
    rows = x.shape if _is_tokens(x) else x.shape[:-1]
    h = given.weight.new_empty(*rows, H)
    if cell == "gru":
        assert W is not None
        assert h0 is not None
        gates, a_n = W.new_empty(*rows, G), torch.empty_like(h)
        c = W.new_zeros(G) if b_hh is None else b_hh
        net = [*_input(x, U, b_ih, gates), W, c, h0, gates, a_n, h]
        _run("gru_forward", layout, given, (), net)
        return h, layout.last(h, h0), gates, a_n
    net = [*_input(x, U, given.input_bias(cell), h), W, h0, h]
    _run("elman_forward", layout, given, (cell == "relu",), net)
    return h, h.new_empty(0, H) if h0 is None else layout.last(h, h0)


def backward(
    cell: str,
    given: Given,
    layout: Layout,
    kept: tuple[Tensor, ...],
    grads: tuple[Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return the gradients of what was given, where needed, from those of h and the last states."""
    given = _contiguous(given)
    x, U, W, _, b_hh, h0 = given
    h, *gates = kept
    grad_h = torch.zeros_like(h) if grads[0] is None else grads[0].contiguous()
    grad_last = None if grads[1] is None else grads[1].contiguous()
    # A row that has no step hands its last state's gradient to its first: they are the same.
    grad_h0 = None
    if h0 is not None:
        grad_h0 = torch.zeros_like(h0) if grad_last is None else grad_last.clone()
    grad_x, grad_U = _room_for_input(given, needs)
    grad_W = torch.empty_like(W) if W is not None and needs[2] else None
    is_gru = cell == "gru"
    G, _ = _widths(given)
    grad_b = h.new_empty(G) if needs[3] or (needs[4] and not is_gru) else None
    of_input = (None, None, None, grad_x) if U is None else (grad_x, grad_U, grad_b, None)
    net, leaving = _input(x, U, None, x), [grad_h, grad_last, *of_input, grad_W]
    if is_gru:
        grad_c = h.new_empty(G) if needs[4] else None
        net, leaving = [*net, W, b_hh, h0, *gates, h], [*leaving, grad_c, grad_h0]
        _run("gru_backward", layout, given, (), net, leaving)
    else:
        net, leaving = [*net, W, h0, h], [*leaving, grad_h0]
        _run("elman_backward", layout, given, (cell == "relu",), net, leaving)
        grad_b, grad_c = _of_biases(grad_b, needs)
    return [grad_x, _as_given(grad_U, x), grad_W, grad_b, grad_c, grad_h0]


def looped_forward(cell: str, given: Given, loop: Loop, layout: Layout) -> tuple[Tensor, ...]:
    """Return h, and what else the kernel's backward needs, each of no size where it is not."""
    given, loop = _contiguous(given), loop.each(Tensor.contiguous)
    x, U, W, _, _, h0 = given
    assert W is not None
    rows = x.shape if _is_tokens(x) else x.shape[:-1]
    h = W.new_empty(*rows, len(W))
    nothing = h.new_empty(0)
    if loop == PLAIN:
        assert h0 is not None
        net = [*_input(x, U, given.input_bias(cell), h), W, h0[0], h]
        _run("elman_forward", layout, given, (cell == "relu",), net)
        return h, nothing, nothing, nothing
    normed = loop.gain is not None
    normal = torch.empty_like(h) if normed else nothing
    by_spread = h.new_empty(rows) if normed else nothing
    fresh = nothing if loop.leak is None else torch.empty_like(h)
    net = [*_input(x, U, given.input_bias(cell), h), W, h0, *loop[1:], normal, by_spread, fresh, h]
    _run("looped_forward", layout, given, (cell == "relu", loop.delays), net)
    return h, normal, by_spread, fresh


def looped_backward(
    cell: str,
    given: Given,
    loop: Loop,
    layout: Layout,
    kept: tuple[Tensor, ...],
    grad_h: Tensor,
    *,
    needs: tuple[bool, ...],
    omega: float,
) -> tuple[list[Tensor | None], float]:
    """Return the gradients of what was given, where needed, from that of h; and Ω, if it weighs.

    omega: the weight of Ω's immediate gradient, which is added to that of W.
    """
    given, loop = _contiguous(given), loop.each(Tensor.contiguous)
    x, U, W, _, _, h0 = given
    h, *more = kept
    grad_x, grad_U = _room_for_input(given, needs)
    grad_b = h.new_empty(h.shape[-1]) if needs[3] or needs[4] else None
    of_input = (None, None, None, grad_x) if U is None else (grad_x, grad_U, grad_b, None)
    found = [
        torch.empty_like(t) if t is not None and needed else None
        for t, needed in zip((W, *loop[1:]), (needs[2], *needs[6:]), strict=True)
    ]
    assert h0 is not None
    grad_h0 = torch.zeros_like(h0)
    value = h.new_zeros(1) if omega > 0 else None
    net = [*_input(x, U, None, x), W, h0, *loop[1:], *(t if t.numel() else None for t in more), h]
    leaving = [grad_h.contiguous(), *of_input, *found, grad_h0, value]
    options = (cell == "relu", loop.delays, omega)
    _run("looped_backward", layout, given, options, net, leaving)
    grad_W, *of_loop = found
    biases = _of_biases(grad_b, needs)
    grads = [grad_x, _as_given(grad_U, x), grad_W, *biases, grad_h0, *of_loop]
    return grads, 0.0 if value is None else float(value)


def _room_for_input(given: Given, needs: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Return memory for the gradients of x and U, where needed; that of tokens is (I, G)."""
    x, U, *_ = given
    grad_U = None
    if U is not None and needs[1]:
        grad_U = U.new_empty(U.shape[::-1]) if _is_tokens(x) else torch.empty_like(U)
    return torch.empty_like(x) if needs[0] else None, grad_U


def _as_given(grad_U: Tensor | None, x: Tensor) -> Tensor | None:
    return grad_U.t() if grad_U is not None and _is_tokens(x) else grad_U


def _of_biases(grad_b: Tensor | None, needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradients of b_ih and b_hh, whose sum is b."""
    if grad_b is None or not needs[4]:
        return grad_b, None
    return grad_b if needs[3] else None, grad_b.clone() if needs[3] else grad_b


def _widths(given: Given) -> tuple[int, int]:
    """Return G and H."""
    G, h0 = len(given.weight), given.h0
    return G, G if h0 is None else h0.shape[-1]


def _is_tokens(x: Tensor) -> bool:
    return not x.is_floating_point()


def _input(x: Tensor, U: Tensor | None, b: Tensor | None, p: Tensor) -> list[Tensor | None]:
    """Return what every layer of the kernel begins with; p is where the projection goes."""
    if U is None:
        return [None, None, None, None, x]
    return [None, x, U.t().contiguous(), b, p] if _is_tokens(x) else [x, None, U, b, p]


def _contiguous(given: Given) -> Given:
    return Given(*[None if t is None else t.contiguous() for t in given])  # type: ignore[arg-type]


def _run(
    name: str,
    layout: Layout,
    given: Given,
    options: tuple[Any, ...],
    *tensors: list[Tensor | None],
) -> None:
    """Call a function of the native kernel, with the tensors' addresses."""
    x, U, _, _, _, h0 = given
    (G, H), I = _widths(given), 0 if U is None else U.shape[1]  # noqa: E741
    rows = x.numel() if _is_tokens(x) else x.numel() // x.shape[-1]
    work = 2.0 * rows * G * (H if U is None or _is_tokens(x) else H + I)
    layout.require(rows)
    if _is_tokens(x):
        require_tokens("x", x, I)
    T = len(x if layout.batch_sizes is None else layout.batch_sizes)
    held = layout.held()
    head = (
        T,
        0 if h0 is None else h0.shape[-2],
        *[address(t) for t in held],
        layout.reverse,
        threads_for(work),
        I,
        H,
    )
    call(
        name, given.weight.dtype, *head, *options, *[[address(t) for t in some] for some in tensors]
    )


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the native kernel, and tell those who count memory what it has taken."""
    watching = bystanders()
    if watching:
        native.bytes_taken()  # of calls before this one
    getattr(native, name + ("_float32" if dtype == torch.float32 else "_float64"))(*arguments)
    if watching:
        taken = native.bytes_taken()
        for bystander in watching:
            bystander.note_kernel_memory(taken)


def threads_for(work: float) -> int:
    """Return how many threads to use for so many floating-point operations.

    Each has memory of its own: who counts that is to see all that a longer call will have.
    """
    return torch.get_num_threads() if work > WORK_FOR_A_THREAD or bystanders() else 1


def require_tokens(name: str, tokens: Tensor, symbols: int) -> None:
    """Raise BpttError unless every token is one of the symbols, or −1 for none."""
    low, high = (int(t) for t in tokens.aminmax())
    if low < -1 or high >= symbols:
        raise BpttError(
            f"{name} has tokens from {low} to {high}; expected −1 for none, or from 0 to "
            f"{symbols - 1}"
        )


def address(tensor: Tensor | None) -> int:
    """Return where a tensor's numbers lie, or 0 for none."""
    if tensor is None:
        return 0
    where = tensor.data_ptr()
    if (where == 0 and tensor.numel() > 0) or not tensor.is_cpu:
        raise BpttError(
            f"a tensor of shape {tuple(tensor.shape)} on {tensor.device} has no memory there; "
            "expected one whose numbers lie on the CPU (has its storage been freed?)"
        )
    return where


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
