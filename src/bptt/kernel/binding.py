"""The native kernel, called with tensors: how it is found, chosen, and given its memory."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bptt.errors import BpttError, require_choice
from bptt.kernel.plain import bystanders

native: Any
try:
    native = importlib.import_module("bptt.kernel.native")
except ImportError as missing:
    native = None
    WHY_NOT_NATIVE = str(missing)

WAYS = ("native", "torch", "plain")
used = "native"
"""By which of these ways loops run; `use` changes it."""
INSTRUCTION_SETS = ("avx512", "avx2", "portable")
LARGE = 32 << 20
"""From how many bytes on an array has memory of its own, which goes back to the system with it."""
WORK_FOR_A_THREAD = 4e6
"""Floating-point operations below which starting a second thread costs more than it brings."""


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the native kernel, and tell those who count memory what it has taken."""
    function = getattr(native, name + ("_float32" if dtype is torch.float32 else "_float64"))
    watching = bystanders()
    if watching:
        native.bytes_taken()  # of calls before this one
    function(*arguments)
    if watching:
        taken = native.bytes_taken()
        for bystander in watching:
            bystander.note_kernel_memory(taken)


def use_large_pages(arrays: Iterable[Tensor]) -> None:
    """Let large arrays that are not written yet have large pages.

    The system clears memory as it is first written to, page by page, and at every training step
    anew; of large pages there are a few for thousands of small ones.
    """
    for array in arrays:
        if array.nbytes >= LARGE:
            native.use_large_pages(address(array), array.nbytes)


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
    where: int = tensor.data_ptr()
    if (where == 0 and tensor.numel() > 0) or not tensor.is_cpu:
        raise BpttError(
            f"a tensor of shape {tuple(tensor.shape)} on {tensor.device} has no memory there; "
            "expected one whose numbers lie on the CPU (has its storage been freed?)"
        )
    return where


def addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    """Return the address of each tensor."""
    return [address(tensor) for tensor in tensors]


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


@contextmanager
def use(way: str) -> Iterator[None]:
    """Let loops over time run in another way inside a with block, in the whole process.

    "native": by the kernel where that serves, else by torch's fused layer of the step, or plainly:
    as it is without this. "torch": by torch's fused layers where there is one, else plainly.
    "plain": by a loop over the step alone, which has derivatives of every order on every device.

    >>> import bptt
    >>> with bptt.kernel.use("torch"):
    ...     bptt.explain(bptt.GRU(3, 4))
    GRU.l0: not native: bptt.kernel.use("torch") asks for another way
    """
    global used  # noqa: PLW0603 (as torch's own backends' flags are the process's)
    require_choice("way", way, WAYS)
    before, used = used, way
    try:
        yield
    finally:
        used = before


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


READS_TENSORS = False
"""Whether the kernel looks at torch's tensors by itself: those of torch 2.10 and later."""
if native is not None:
    _share_torchs_threads()
    if hasattr(Tensor, "__dlpack_c_exchange_api__"):
        READS_TENSORS = native.read_tensors_by(Tensor.__dlpack_c_exchange_api__)
_choose(os.environ.get("BPTT_INSTRUCTION_SET"))
