"""Which tensors the native kernel may read by their address: plain ones, and nothing else.

A subclass of Tensor, a lazily negated view, zeros without memory, a nested, sparse or functional
tensor: all of these are Tensors whose numbers do not lie where data_ptr says. Their dispatch keys
tell them apart. And while a dispatch mode is on (FakeTensorMode, make_fx, a counter of operations),
whoever set it wants to see torch's own operations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from bptt.errors import BpttError

Function = TypeVar("Function", bound=Callable[..., Any])

with torch.inference_mode():
    _OF_INFERENCE = torch._C._dispatch_keys(torch.empty(0)).raw_repr()
PLAIN_KEYS = (torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr(), _OF_INFERENCE)
PLAIN_TYPES = (Tensor, nn.Parameter)
_keys_of = torch._C._dispatch_keys


class Bystander(TorchDispatchMode):
    """A dispatch mode that looks on while the kernel runs, and is told of the kernel's memory."""

    def note_kernel_memory(self, size: int) -> None:
        """Hear how many bytes one call of the kernel has used besides tensors."""
        raise NotImplementedError


def is_plain(tensor: Tensor | None) -> bool:
    """Return whether a tensor is none, or its numbers lie on the CPU where its address says."""
    return tensor is None or (
        type(tensor) in PLAIN_TYPES and _keys_of(tensor).raw_repr() in PLAIN_KEYS
    )


def are_plain(tensors: list[Any], dtype: torch.dtype) -> bool:
    """Return whether all are tensors whose numbers lie on the CPU as they say, of one dtype."""
    for tensor in tensors:
        if (
            type(tensor) not in PLAIN_TYPES
            or tensor.dtype is not dtype
            or _keys_of(tensor).raw_repr() not in PLAIN_KEYS
        ):
            return False
    return True


def is_transformed() -> bool:
    """Return whether a transform of torch.func, or forward-mode differentiation, is going on."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether somebody records torch's operations: tracing, exporting, a mode of theirs."""
    if torch.compiler.is_compiling():
        return is_exporting()
    return (
        torch._C._is_tracing()
        or (torch._C._len_torch_dispatch_stack() > 0 and not _all_bystanders())
        or (torch._C._len_torch_function_stack() > 0 and not _all_devices())
    )


def is_exporting() -> bool:
    """Return whether torch.export is at it.

    torch.compiler.is_exporting() says so too, but in a graph of torch 2.11 it is true always.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else bool(flag)


def bystanders() -> list[Bystander]:
    """Return the modes that are told of the kernel's memory."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return []
    return [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Bystander)]


def _all_bystanders() -> bool:
    return all(isinstance(mode, Bystander) for mode in _get_current_dispatch_mode_stack())


def _all_devices() -> bool:
    """Whether the only modes of torch functions are `with torch.device(...)`."""
    count = torch._C._len_torch_function_stack()
    modes: list[Any] = [torch._C._get_function_stack_at(i) for i in range(count)]
    return all(isinstance(mode, DeviceContext) for mode in modes)


def require_alike(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Raise BpttError unless a tensor is of the dtype, and on the device, that weights are.

    Under autocast torch sees to the dtype itself.
    """
    device = tensor.device.type
    is_cast = has_autocast(device) and torch.is_autocast_enabled(device)
    if tensor.device != weight.device or (tensor.dtype != weight.dtype and not is_cast):
        raise BpttError(
            f"{name} is {tensor.dtype} on {tensor.device}, beside weights that are {weight.dtype} "
            f"on {weight.device}; expected both alike: move one of them with .to(...)"
        )


def take_as_constant(function: Any) -> None:
    """Let torch.compile call a function when it traces, and take its result as a constant.

    As torch.compiler.assume_constant_result does, which would import the compiler now.
    """
    function._dynamo_marked_constant = True


def has_autocast(device: str) -> bool:
    """Return whether there is autocast on a kind of device; of others torch raises when asked."""
    return torch.amp.is_autocast_available(device)


take_as_constant(has_autocast)


def leave_to_python(reason: str) -> Callable[[Function], Function]:
    """Let torch.compile break its graph at a function, and leave alone what it calls.

    As torch.compiler.disable does, which would import the compiler now.
    """

    def mark(function: Function) -> Function:
        @wraps(function)
        def outside(*arguments: Any, **named: Any) -> Any:
            if "torch._dynamo" in sys.modules:
                return torch.compiler.disable(function)(*arguments, **named)
            return function(*arguments, **named)

        outside._torchdynamo_disable = True  # type: ignore[attr-defined]
        outside._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
        return cast(Function, outside)

    return mark
