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

native: Any
try:
    native = importlib.import_module("bptt.kernel.native")
except ImportError as missing:
    native = None
    WHY_NOT_NATIVE = str(missing)

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
WORK_FOR_A_THREAD = 4e6
"""Floating-point operations below which starting a second thread costs more than it brings."""

Given = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor]
"""x, U, W, b_ih, b_hh, h0."""


def forward(cell: str, given: Given, layout: Layout) -> tuple[Tensor, ...]:
    """Return h, the last states, and what else the kernel's backward needs."""
    x, U, W, b_ih, b_hh, h0 = _contiguous(given)
    G, H = W.shape
    h = x.new_empty(*x.shape[:-1], H)
    if cell == "gru":
        gates, a_n = x.new_empty(*x.shape[:-1], G), torch.empty_like(h)
        c = W.new_zeros(G) if b_hh is None else b_hh
        p = (None, None, None, x) if U is None else (x, U, b_ih, gates)
        _run("gru_forward", layout, x, W, h0, (), [*p, W, c, h0, gates, a_n, h])
        return h, layout.last(h, h0), gates, a_n
    bias = b_hh if b_ih is None else b_ih if b_hh is None else b_ih + b_hh
    p = (None, None, None, x) if U is None else (x, U, bias, h)
    _run("elman_forward", layout, x, W, h0, (cell == "relu",), [*p, W, h0, h])
    return h, layout.last(h, h0)


def backward(
    cell: str,
    given: Given,
    layout: Layout,
    kept: tuple[Tensor, ...],
    grads: tuple[Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    """Return the gradients of what was given, where needed, from those of h and the last states."""
    x, U, W, _, b_hh, h0 = _contiguous(given)
    h, *gates = kept
    grad_h = torch.zeros_like(h) if grads[0] is None else grads[0].contiguous()
    grad_last = None if grads[1] is None else grads[1].contiguous()
    # A row that has no step hands its last state's gradient to its first: they are the same.
    grad_h0 = torch.zeros_like(h0) if grad_last is None else grad_last.clone()
    found = [
        torch.empty_like(t) if t is not None and needed else None
        for t, needed in zip((x, U, W), needs, strict=False)
    ]
    grad_x, grad_U, grad_W = found
    is_gru = cell == "gru"
    grad_b = W.new_empty(len(W)) if needs[3] or (needs[4] and not is_gru) else None
    of_input = (None, None, None, grad_x) if U is None else (grad_x, grad_U, grad_b, None)
    p = (None, None, None, x) if U is None else (x, U, None, x)
    arriving = (grad_h, grad_last)
    if is_gru:
        grad_c = W.new_empty(len(W)) if needs[4] else None
        net = [*p, W, b_hh, h0, *gates, h]
        leaving = [*arriving, *of_input, grad_W, grad_c, grad_h0]
        _run("gru_backward", layout, x, W, h0, (), net, leaving)
        return [*found, grad_b, grad_c, grad_h0]
    net = [*p, W, h0, h]
    leaving = [*arriving, *of_input, grad_W, grad_h0]
    _run("elman_backward", layout, x, W, h0, (cell == "relu",), net, leaving)
    both = grad_b is not None and needs[3] and needs[4]
    return [*found, grad_b if needs[3] else None, grad_b.clone() if both else grad_b, grad_h0]


def _contiguous(given: Given) -> Given:
    return tuple(None if t is None else t.contiguous() for t in given)  # type: ignore[return-value]


def _run(
    name: str,
    layout: Layout,
    x: Tensor,
    W: Tensor,
    h0: Tensor,
    options: tuple[bool, ...],
    *tensors: list[Tensor | None],
) -> None:
    """Call a function of the native kernel, with the tensors' addresses."""
    sizes, starts = layout.batch_sizes, layout.starts()
    resets = None if layout.resets is None else layout.resets.to(torch.uint8).contiguous()
    T = x.shape[0] if sizes is None else len(sizes)
    G, H = W.shape
    work = 2.0 * (x.numel() // x.shape[-1]) * G * (H + x.shape[-1])
    threads = torch.get_num_threads() if work > WORK_FOR_A_THREAD else 1
    rows = tuple(0 if t is None else t.data_ptr() for t in (sizes, starts, resets))
    addresses = [[0 if t is None else t.data_ptr() for t in some] for some in tensors]
    type_name = "float32" if x.dtype == torch.float32 else "float64"
    function = getattr(native, f"{name}_{type_name}")
    function(T, len(h0), *rows, layout.reverse, threads, x.shape[-1], H, *options, *addresses)


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
