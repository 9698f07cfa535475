"""The free run of tanh and relu networks in the kernel: step, read-out, sample, feed back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bptt.errors import BpttError, require_choice, require_shape
from bptt.kernel import binding

KINDS = ("categorical", "bernoulli", "gaussian")


class LayerWeights(NamedTuple):
    """What a layer adds up before f: b + U x + W h, each None where there is none.

    The first layer's U and b stand outside of the loop.
    """

    U: Float[Tensor, "H H"] | None
    W: Float[Tensor, "H H"] | None
    b: Float[Tensor, " H"] | None


class FreeRun(NamedTuple):
    """What to run.

    cell: tanh or relu. p: b + U xᵗ, (T, B, H), or (H) if there is no x. R: (H, Y), None where
    nothing is fed back. V, c: the read-out. hidden: h⁰, (layers, B, H), None for 0. own0: the first
    value fed back. forced: (T, B), where `previous`, (T, B, ...), enters instead; None for nowhere.
    resets: (T, B), before which the state is 0 and nothing is fed back. kind: of the likelihood,
    and noise, (T, B, ...), what it draws from. scale: (Y), what a Gaussian multiplies it by.
    """

    cell: str
    p: Tensor
    layers: list[LayerWeights]
    R: Float[Tensor, "H Y"] | None
    V: Float[Tensor, "O H"]
    c: Float[Tensor, " O"]
    hidden: Float[Tensor, "layers B H"] | None
    own0: Shaped[Tensor, "B *y"]
    previous: Shaped[Tensor, "T B *y"] | None
    forced: Bool[Tensor, "T B"] | None
    resets: Bool[Tensor, "T B"] | None
    kind: str
    noise: Float[Tensor, "T B *noise"]
    temperature: float
    scale: Tensor


def can(layer: Any, noise: Tensor) -> bool:
    """Return whether the kernel can run this layer freely, with noise of this kind."""
    return (
        binding.native is not None
        and getattr(layer, "nonlinearity", None) in ("tanh", "relu")
        and noise.is_cpu
        and noise.dtype in (torch.float32, torch.float64)
        and noise.dtype == layer.weight_ih_l0.dtype
        and noise.numel() > 0
    )


def run(free: FreeRun) -> tuple[Shaped[Tensor, "T B *y"], Float[Tensor, "layers B H"]]:
    """Return what the network said at every step, and its last hidden state.

    Raises BpttError where a tensor is not of the shape, dtype or range that the kernel reads.
    """
    require_shape("V", free.V.shape, "(O, H)", (None, None))
    if free.noise.ndim not in (2, 3):
        raise BpttError(f"noise has shape {tuple(free.noise.shape)}; expected (T, B) or (T, B, Y)")
    T, B = free.noise.shape[:2]
    O, H = free.V.shape  # noqa: E741
    is_tokens = free.kind == "categorical"
    _require_sizes(free, T, B)
    R = None if free.R is None else free.R.t() if is_tokens else free.R
    first = free.own0.contiguous()
    said = first.new_empty(T, *first.shape)
    state = free.V.new_zeros(len(free.layers), B, H) if free.hidden is None else free.hidden.clone()
    forced = None if free.forced is None else free.forced.to(torch.uint8)
    resets = None if free.resets is None else free.resets.to(torch.uint8)
    tensors = (free.p, R, free.V, free.c, free.noise, free.scale, free.previous)
    masks = (forced, resets)
    held = [None if t is None else t.detach().contiguous() for t in (*tensors, *masks, first)]
    weights = [[None if t is None else t.detach().contiguous() for t in one] for one in free.layers]
    state = state.contiguous()
    work = 2.0 * T * B * H * (len(weights) * H + 2 * O)
    binding.call(
        "free_run",
        free.V.dtype,
        (T, B, H, O, first.shape[-1] if not is_tokens else O),
        binding.threads_for(work),
        free.cell == "relu",
        free.p.ndim > 1,
        KINDS.index(free.kind),
        float(free.temperature),
        [[binding.address(t) for t in one] for one in weights],
        [binding.address(t) for t in (*held, said, state)],
    )
    return said, state


def fits(likelihood_kind: str, own0: Tensor) -> bool:
    """Return whether the first value fed back is a sample: of symbols, not their probabilities."""
    return likelihood_kind != "categorical" or not own0.is_floating_point()


def _require_sizes(free: FreeRun, T: int, B: int) -> None:
    """Raise BpttError unless every tensor is as large, and of the dtype, that the kernel reads."""
    require_choice("the likelihood's kind", free.kind, KINDS)
    require_choice("the cell", free.cell, ("tanh", "relu"))
    O, H = free.V.shape  # noqa: E741
    is_tokens, depth = free.kind == "categorical", len(free.layers)
    y = (B,) if is_tokens else (B, O)
    sizes: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "p": (free.p, (T, B, H) if free.p.ndim > 1 else (H,)),
        "R": (free.R, (H, O)),
        "V": (free.V, (O, H)),
        "c": (free.c, (O,)),
        "noise": (free.noise, (T, *y)),
        "scale": (free.scale, (O,) if free.kind == "gaussian" else (0,)),
        "hidden": (free.hidden, (depth, B, H)),
    }
    for k, layer in enumerate(free.layers):
        sizes[f"U of layer {k}"] = layer.U, (H, H)
        sizes[f"W of layer {k}"] = layer.W, (H, H)
        sizes[f"b of layer {k}"] = layer.b, (H,)
    values = torch.int64 if is_tokens else free.V.dtype
    _require("own0", free.own0, y, values)
    _require("previous", free.previous, (T, *y), values)
    _require("forced", free.forced, (T, B), torch.bool)
    _require("resets", free.resets, (T, B), torch.bool)
    is_whole = all(None not in (layer.U, layer.b) for layer in free.layers[1:])
    if not free.layers or not is_whole or (free.forced is not None and free.previous is None):
        raise BpttError(
            "a free run lacks a tensor; expected a layer or more, U and b of each above the first, "
            "and what is forced"
        )
    for name, (tensor, size) in sizes.items():
        _require(name, tensor, size, free.V.dtype)
    for name, tokens in (("own0", free.own0), ("previous", free.previous)):
        if is_tokens and tokens is not None and tokens.numel() > 0:
            binding.require_tokens(name, tokens, O)


def _require(name: str, tensor: Tensor | None, size: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor is None:
        return
    require_shape(name, tensor.shape, "what the free run reads", size)
    if tensor.dtype != dtype or not tensor.is_cpu:
        raise BpttError(
            f"{name} is {tensor.dtype} on {tensor.device}; expected {dtype} on the CPU, as the rest"
        )
