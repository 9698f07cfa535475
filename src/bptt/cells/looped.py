"""An Elman layer with more in its loop: skips through time, a leak, layer normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.elman import elman
from bptt.cells.kind import Activation
from bptt.kernel.ops import Recipe
from bptt.kernel.plain_loop import State, Step

NORM_EPSILON = 1e-5
"""What layer normalisation adds to σ², as torch's does."""


class Loop(NamedTuple):
    """What a tanh or relu layer has in its loop besides W, which is (H, K H) for K delays.

    delays: rising from 1 on. leak: α, (H). gain, shift: of layer normalisation, (H). None: none.
    The state is then hᵗ, hᵗ⁻¹, …, as many parts as the farthest delay.
    """

    delays: tuple[int, ...] = (1,)
    leak: Float[Tensor, " H"] | None = None
    gain: Float[Tensor, " H"] | None = None
    shift: Float[Tensor, " H"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Loop:
        """Return the loop with every tensor changed."""
        return Loop(self.delays, *[None if t is None else change(t) for t in self[1:]])


PLAIN = Loop()
"""W alone."""


def looped(W: Float[Tensor, "H KH"], f: Activation, loop: Loop) -> Step:
    """Return the step of an Elman layer with more in its loop; the state is hᵗ, hᵗ⁻¹, ….

    Delays: aᵗ = pᵗ + Σ_d W_d hᵗ⁻ᵈ (Lin et al. 1996; Goodfellow et al. 2016, section 10.9.1).
    Layer normalisation over the units: ã = gain ⊙ (a − μ) / σ + shift (Ba et al. 2016, equation 4).
    Leak: hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(ã) (Jaeger et al. 2007; Goodfellow et al., section 10.9.2).
    """

    def step(p: Float[Tensor, "B H"], state: State) -> State:
        met = torch.cat([state[d - 1] for d in loop.delays], dim=1)
        a = torch.addmm(p, met, W.t())
        if loop.gain is not None:
            a = torch.nn.functional.layer_norm(a, a.shape[1:], loop.gain, loop.shift, NORM_EPSILON)
        h = f(a) if loop.leak is None else torch.lerp(state[0], f(a), loop.leak)
        return h, *state[:-1]

    return step


def looped_recipe(f: Activation, W: Tensor, loop: Loop) -> Recipe:
    """Return what makes the step, of W and what else there is in the loop."""
    if loop == PLAIN:
        return Recipe(elman, (W,), (f,))
    return Recipe(_looped, (W, *loop[1:]), (f, loop.delays))


def _looped(
    W: Tensor,
    leak: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    f: Activation,
    delays: tuple[int, ...],
) -> Step:
    return looped(W, f, Loop(delays, leak, gain, shift))
