"""Which steps of which sequences there are, and before which a state is zeroed."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from bptt.errors import BpttError, require_shape, shown


def steps_alive(
    lengths: Tensor | None, T: int, B: int, device: torch.device
) -> Bool[Tensor, "T B"] | None:
    """Return which steps lie within each sequence's length, or None where all do."""
    require_lengths(lengths, T, B)
    if lengths is None:
        return None
    return torch.arange(T, device=device).unsqueeze(1) < lengths.to(device)


def require_lengths(lengths: Tensor | None, T: int, B: int) -> None:
    """Raise BpttError unless there are no lengths, or B of them, each from 0 to T."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise BpttError(f"lengths are a {type(lengths).__name__}; expected a tensor of shape (B,)")
    require_shape("lengths", lengths.shape, "(B,)", (B,))
    if lengths.dtype in (torch.bool, torch.complex64, torch.complex128) or lengths.is_meta:
        raise BpttError(f"lengths are {shown(lengths)}; expected whole numbers from 0 to T = {T}")
    if lengths.is_floating_point() or int(lengths.min()) < 0 or int(lengths.max()) > T:
        raise BpttError(f"lengths are {lengths.tolist()}; expected whole numbers from 0 to T = {T}")


def as_mask(name: str, mask: object, T: int, B: int) -> Bool[Tensor, "T B"]:
    """Return a mask of zeros and ones as booleans, or raise BpttError unless it is one, (T, B)."""
    if not isinstance(mask, Tensor):
        raise BpttError(f"{name} is a {type(mask).__name__}; expected a tensor of shape (T, B)")
    require_shape(name, mask.shape, "(T, B)", (T, B))
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise BpttError(f"{name} has values other than 0 and 1; expected a mask")
    return mask.bool()
