"""hᵗ = f(pᵗ + W hᵗ⁻¹), the simple recurrent network (Elman 1990); and without W, f alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.kernel.plain_loop import State, Step

Activation = Callable[[Tensor], Tensor]


def elman(W: Float[Tensor, "H H"], f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ + W hᵗ⁻¹) (Elman 1990)."""

    def step(p: Float[Tensor, "B H"], state: State) -> State:
        (h,) = state
        return (f(torch.addmm(p, h, W.t())),)

    return step


def feedforward(f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ), whatever the state."""
    return lambda p, state: (f(p),)
