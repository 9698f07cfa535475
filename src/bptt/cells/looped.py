"""An Elman cell with more in its loop: skips through time, a leak, layer normalisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bptt.cells.cell import Activation, Cell
from bptt.kernel.plain_loop import Parts, Step

NORM_EPSILON = 1e-5
"""What layer normalisation adds to σ², as torch's does."""


class LoopParts(NamedTuple):
    """What a tanh or relu layer has in its loop besides W, which is (H, K H) for K delays.

    delays: rising from 1 on. leak: α, (H). gain, shift: of layer normalisation, (H). None: none.
    The state is then hᵗ, hᵗ⁻¹, …, as many parts as the farthest delay.
    """

    delays: tuple[int, ...] = (1,)
    leak: Float[Tensor, " H"] | None = None
    gain: Float[Tensor, " H"] | None = None
    shift: Float[Tensor, " H"] | None = None


def looped(W: Float[Tensor, "H KH"], f: Activation, loop: LoopParts) -> Step:
    """Return the step of an Elman layer with more in its loop; the state is hᵗ, hᵗ⁻¹, ….

    Delays: aᵗ = pᵗ + Σ_d W_d hᵗ⁻ᵈ (Lin et al. 1996; Goodfellow et al. 2016, section 10.9.1).
    Layer normalisation over the units: ã = gain ⊙ (a − μ) / σ + shift (Ba et al. 2016, equation 4).
    Leak: hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(ã) (Jaeger et al. 2007; Goodfellow et al., section 10.9.2).
    """

    def step(p: Float[Tensor, "B H"], state: Parts) -> Parts:
        met = torch.cat([state[d - 1] for d in loop.delays], dim=1)
        a = torch.addmm(p, met, W.t())
        if loop.gain is not None:
            a = torch.nn.functional.layer_norm(a, a.shape[1:], loop.gain, loop.shift, NORM_EPSILON)
        h = f(a) if loop.leak is None else torch.lerp(state[0], f(a), loop.leak)
        return h, *state[:-1]

    return step


class Looped(Cell):
    """hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(norm(b + U xᵗ + Σ_d W_d hᵗ⁻ᵈ)), or what of it is asked for.

    Its state is hᵗ, or with skips the last hᵗ, hᵗ⁻¹, …, as many as the farthest delay. Parameters:
    weight_hh, weight_skip4 for a delay of 4, leak (σ⁻¹ of α, if that is learned), gain, shift.
    """

    closed_by = "more"
    is_torchs = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        f: Activation,
        *,
        skips: tuple[int, ...] = (),
        leak: Float[Tensor, " H"] | None = None,
        learn_leak: bool = False,
        norm: bool = False,
    ) -> None:
        self.delays = (1, *skips)
        super().__init__(input_size, hidden_size, states=self.delays[-1])
        self.f, self.norm, self.learn_leak = f, norm, learn_leak  # type: ignore[misc]
        self.weight_hh = self.matrix(hidden_size, hidden_size)
        for delay in skips:
            self.register_parameter(f"weight_skip{delay}", self.matrix(hidden_size, hidden_size))
        if leak is not None and learn_leak:
            self.leak = nn.Parameter(torch.logit(leak))
        else:
            self.register_buffer("leak", leak)
        if norm:
            self.gain = nn.Parameter(torch.ones(hidden_size))
            self.shift = nn.Parameter(torch.zeros(hidden_size))

    def extra_repr(self) -> str:
        """Return what print(net) shows of it."""
        leak = {"leak": "learned" if self.learn_leak else "fixed"} if self.leak is not None else {}
        there = {"skips": self.delays[1:], **leak, "norm": self.norm}
        more = "".join(f", {name}={value}" for name, value in there.items() if value)
        return f"{self.input_size}, {self.hidden_size}{more}"

    @property
    def remembers_h_alone(self) -> bool:
        """Whether all parts of the state are h: they are hᵗ, hᵗ⁻¹, …."""
        return True

    def step(self, p: Float[Tensor, "B H"], *state: Float[Tensor, "B H"]) -> Parts:
        """Return hᵗ, hᵗ⁻¹, …."""
        leak = torch.sigmoid(self.leak) if self.learn_leak else self.leak
        names = ["weight_hh", *(f"weight_skip{delay}" for delay in self.delays[1:])]
        weights = [getattr(self, name) for name in names]
        W = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
        norm = (self.gain, self.shift) if self.norm else (None, None)
        assert self.f is not None
        return looped(W, self.f, LoopParts(self.delays, leak, *norm))(p, state)
