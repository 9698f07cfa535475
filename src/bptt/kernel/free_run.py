"""The free run of tanh and relu networks in the kernel: step, read-out, sample, feed back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

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
    """Return what the network said at every step, and its last hidden state."""
    T, B = free.noise.shape[:2]
    O, H = free.V.shape  # noqa: E741
    is_tokens = free.kind == "categorical"
    first = free.own0.to(torch.int64 if is_tokens else free.V.dtype).contiguous()
    said = first.new_empty(T, *first.shape)
    state = free.V.new_zeros(len(free.layers), B, H) if free.hidden is None else free.hidden.clone()
    forced = None if free.forced is None else free.forced.to(torch.uint8)
    resets = None if free.resets is None else free.resets.to(torch.uint8)
    R = None if free.R is None else free.R.t() if is_tokens else free.R
    tensors = (free.p, R, free.V, free.c, free.noise, free.scale, free.previous, forced, resets)
    held = [None if t is None else t.detach().contiguous() for t in (*tensors, first)]
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
