"""What one step of a recurrent layer passes back: ∂hₘ/∂hₘ₋₁ and ∂hₖ/∂W, for every step at once.

A step is sᵗ = F(pᵗ, aᵗ, sᵗ⁻¹) with pᵗ = b + U xᵗ and aᵗ = b′ + W hᵗ⁻¹; s is h, or (h, c) for an
LSTM. Once the states of a run are known, no step waits for another, so that a gradient that arrives
at many steps is taken one step back by one product over all of them:

    δp = (∂F/∂p)ᵀ d,    δa = (∂F/∂a)ᵀ d,    ∂L/∂sᵗ⁻¹ = (∂F/∂s)ᵀ d + Wᵀ δa,    ∂L/∂xᵗ = Uᵀ δp

For tanh that is ∂hₘ/∂hₘ₋₁ = diag(1 − hₘ²) W (Goodfellow et al. 2016, equation 10.22).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.looped import NORM_EPSILON, Loop

Parts = tuple[Float[Tensor, "J B H"], ...]
"""The gradient of a state: of h, or of h and c."""


class Passed(NamedTuple):
    """What a gradient makes of a step, before the weights: δp, δa, and what goes by W's side.

    others: of parameters that are no matrices, by their names in a Site.
    """

    p: Float[Tensor, "J B G"]
    a: Float[Tensor, "J B G"]
    beside: tuple[Float[Tensor, "J B H"] | None, ...]
    others: dict[str, Float[Tensor, "J B H"]] = {}  # noqa: RUF012 (a NamedTuple's, never changed)


class Slopes(Protocol):
    """The derivatives of F at every step of a run."""

    def back(self, d: Parts, steps: slice) -> Passed:
        """Take the gradients of the states after some steps back into these steps."""
        ...


class Elman(NamedTuple):
    """h = f(p + a). slope: f′, (T, B, H)."""

    slope: Float[Tensor, "T B H"]

    @classmethod
    def at(cls, cell: str, h: Float[Tensor, "T B H"]) -> Elman:
        """Return the slopes where the states are h."""
        return cls(1 - h * h if cell == "tanh" else (h > 0).to(h.dtype))

    def back(self, d: Parts, steps: slice) -> Passed:
        """Return δ = f′ ⊙ d."""
        delta = d[0] * self.slope[steps]
        return Passed(delta, delta, (None,))


class Looped(NamedTuple):
    """h = (1 − α) ⊙ h₋ + α ⊙ f(ã), ã = gain ⊙ n + shift, n = (a − μ) / σ, for states (h, h₋, …).

    states: how many parts the state has. slope: f′(ã), (T, B, H). leak: α, or None for 1. off:
    f(ã) − h₋. gain, normal, by_spread: n and 1/σ, (T, B, H) and (T, B, 1); None without a
    normalisation.
    """

    states: int
    slope: Float[Tensor, "T B H"]
    leak: Float[Tensor, " H"] | None
    off: Float[Tensor, "T B H"]
    gain: Float[Tensor, " H"] | None
    normal: Float[Tensor, "T B H"] | None
    by_spread: Float[Tensor, "T B 1"] | None

    @classmethod
    def at(
        cls, cell: str, loop: Loop, a: Float[Tensor, "T B H"], before: Float[Tensor, "T B H"]
    ) -> Looped:
        """Return the slopes where a is this, after states `before`."""
        normal = by_spread = None
        if loop.gain is not None and loop.shift is not None:
            spread = a.var(-1, correction=0, keepdim=True)
            by_spread = (spread + NORM_EPSILON).rsqrt()
            normal = (a - a.mean(-1, keepdim=True)) * by_spread
            a = loop.gain * normal + loop.shift
        fresh = torch.tanh(a) if cell == "tanh" else torch.relu(a)
        slope = Elman.at(cell, fresh).slope
        return cls(loop.delays[-1], slope, loop.leak, fresh - before, loop.gain, normal, by_spread)

    def back(self, d: Parts, steps: slice) -> Passed:
        """Return what passes f; past it by the leak; and each older state to where it came from."""
        into, leak, others = d[0], self.leak, dict[str, Tensor]()
        aside = None if leak is None else into * (1 - leak)
        if leak is not None:
            others["leak"] = into * self.off[steps] * leak * (1 - leak)  # of σ⁻¹(α)
            into = into * leak
        delta = into * self.slope[steps]
        if self.gain is not None and self.normal is not None and self.by_spread is not None:
            normal = self.normal[steps]
            others["gain"], others["shift"] = delta * normal, delta
            delta = delta * self.gain
            along = (delta * normal).mean(-1, keepdim=True)
            delta = (delta - delta.mean(-1, keepdim=True) - along * normal) * self.by_spread[steps]
        beside: list[Tensor | None] = [*d[1:], None]
        if aside is not None:
            beside[0] = aside if beside[0] is None else aside + beside[0]
        return Passed(delta, delta, tuple(beside), others)


class Gru(NamedTuple):
    """h = (1 − z) ⊙ n + z ⊙ h₋, n = tanh(pₙ + r ⊙ aₙ). p, a: ∂h/∂p and ∂h/∂a, gates r, z, n."""

    p: Float[Tensor, "T B 3 H"]
    a: Float[Tensor, "T B 3 H"]
    z: Float[Tensor, "T B H"]

    @classmethod
    def at(
        cls, p: Float[Tensor, "T B G"], a: Float[Tensor, "T B G"], before: Float[Tensor, "T B H"]
    ) -> Gru:
        """Return the slopes where p and a are these, after states `before`."""
        (p_r, p_z, p_n), (a_r, a_z, a_n) = p.chunk(3, -1), a.chunk(3, -1)
        r, z = torch.sigmoid(p_r + a_r), torch.sigmoid(p_z + a_z)
        n = torch.tanh(p_n + r * a_n)
        by_n = (1 - z) * (1 - n * n)
        by_r, by_z = by_n * a_n * r * (1 - r), (before - n) * z * (1 - z)
        return cls(torch.stack([by_r, by_z, by_n], -2), torch.stack([by_r, by_z, by_n * r], -2), z)

    def back(self, d: Parts, steps: slice) -> Passed:
        """Return what reaches the three gates, by either side, and past them."""
        each = d[0].unsqueeze(-2)
        p, a = (each * self.p[steps]).flatten(-2), (each * self.a[steps]).flatten(-2)
        return Passed(p, a, (d[0] * self.z[steps],))


class Lstm(NamedTuple):
    """c = f ⊙ c₋ + i ⊙ g, h = o ⊙ tanh(c). gates: ∂c/∂(i, f, g) and ∂h/∂o, before σ and tanh.

    h_by_c: ∂h/∂c; f: ∂c/∂c₋.
    """

    gates: Float[Tensor, "T B 4 H"]
    h_by_c: Float[Tensor, "T B H"]
    f: Float[Tensor, "T B H"]

    @classmethod
    def at(
        cls,
        a: Float[Tensor, "T B G"],
        c0: Float[Tensor, "B H"],
        kept: Float[Tensor, "T B 1"] | None = None,
    ) -> Lstm:
        """Return the slopes where p + a are these; kept: 0 before which steps c is zeroed."""
        i, f, g, o = a.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        before, c = torch.empty_like(f), c0
        for t in range(len(a)):
            before[t] = c if kept is None else c * kept[t]
            c = f[t] * before[t] + i[t] * g[t]
        tanh_c = torch.tanh(f * before + i * g)
        by = [g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)]
        return cls(torch.stack(by, -2), o * (1 - tanh_c * tanh_c), f)

    def back(self, d: Parts, steps: slice) -> Passed:
        """Return what reaches the four gates, and c₋ past them."""
        d_h, d_c = d
        d_c = d_c + d_h * self.h_by_c[steps]
        gates = self.gates[steps]
        through_c = d_c.unsqueeze(-2) * gates[..., :3, :]
        delta = torch.cat([through_c, (d_h * gates[..., 3, :]).unsqueeze(-2)], -2).flatten(-2)
        return Passed(delta, delta, (None, d_c * self.f[steps]))


class Site(NamedTuple):
    """Where weights enter: their gradient is Σ δ zᵀ.

    which: "p", "a", or "both" where δp and δa are the same; or the name of one of Passed's others.
    z: what they are multiplied by.
    columns: which columns of z are whose: (parameter, from, to, which columns of the parameter).
    """

    which: str
    z: Float[Tensor, "T B Z"]
    columns: list[tuple[str, int, int, Tensor | None]]

    def delta(self, passed: Passed) -> Float[Tensor, "J B G"]:
        """Return the δ that goes with it."""
        if self.which in passed.others:
            return passed.others[self.which]
        return passed.a if self.which == "a" else passed.p


@dataclass(frozen=True)
class Layer:
    """One layer of a run: its slopes, its weights, and where these enter.

    U: (G, I), what its input enters by. W: (G, H), or None where nothing loops over h. mask: what
    dropout has multiplied its input by. skips: by which matrix h enters with a delay besides W's.
    """

    slopes: Slopes
    U: Float[Tensor, "G I"]
    W: Float[Tensor, "G H"] | None
    sites: list[Site]
    mask: Float[Tensor, "T B I"] | None = None
    skips: dict[int, Float[Tensor, "G H"]] = field(default_factory=dict)

    def down(self, passed: Passed, steps: slice) -> Float[Tensor, "J B I"]:
        """Return the gradient of what entered, from the layer below."""
        below = passed.p @ self.U
        return below if self.mask is None else below * self.mask[steps]

    def back(self, d: Parts, steps: slice) -> tuple[Passed, Parts]:
        """Take gradients one step back; return what passed, and the gradients of the states."""
        passed = self.slopes.back(d, steps)
        if self.W is None:
            return passed, tuple(torch.zeros_like(part) for part in d)
        before = list(passed.beside)
        for delay, weight in ((1, self.W), *self.skips.items()):
            beside, through = before[delay - 1], passed.a @ weight
            before[delay - 1] = through if beside is None else through.add_(beside)
        return passed, tuple(part for part in before if part is not None)
