"""The recurrences as plain loops over time: the kernel's meaning.

Every function starts from the projected input pᵗ = b + U xᵗ + R yᵗ⁻¹, which needs no loop, and
runs the part that does. A state is a tuple of (B, H) tensors whose first member is hᵗ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bptt.kernel.layout import DENSE, Layout

State = tuple[Float[Tensor, "B H"], ...]
Step = Callable[[Tensor, State], State]
Activation = Callable[[Tensor], Tensor]

NORM_EPSILON = 1e-5
"""What layer normalisation adds to σ², as torch's does."""


class Given(NamedTuple):
    """What a layer, in one direction, computes from.

    x: (T, B, I) or (N, I), as a Layout says, or tokens, (T, B) or (N), from 0 to I − 1, or −1 for
    none. U: (G, I), or None where x is b + U x already: with both biases for tanh and relu, which
    are then None; with b_ih for a GRU. W: (G, H). b_ih, b_hh: (G), or None for 0. h0: (B, H).
    G is H, or 3H for a GRU. W and h0 are None where nothing loops over h; U is not, then.
    """

    x: Tensor
    U: Tensor | None
    W: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    h0: Tensor | None

    @property
    def weight(self) -> Tensor:
        """W, or U where there is none: for its dtype and device."""
        weight = self.U if self.W is None else self.W
        assert weight is not None
        return weight

    def input_bias(self, cell: str) -> Tensor | None:
        """Return what is added to U x."""
        if cell == "gru" or self.b_hh is None:
            return self.b_ih
        return self.b_hh if self.b_ih is None else self.b_ih + self.b_hh


def layer(
    cell: str, given: Given, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "B H"]]:
    """Return what `ops.layer` returns: every hᵗ, and each row's last."""
    x, U, W, _, b_hh, h0 = given
    f = torch.relu if cell == "relu" else torch.tanh
    projected = x if U is None else project(x, U, given.input_bias(cell))
    if W is None or h0 is None:
        return f(projected), projected.new_empty(0, projected.shape[-1])
    bias = W.new_zeros(len(W)) if b_hh is None else b_hh
    step = gru(W, bias) if cell == "gru" else elman(W, f)
    h, (last,) = unroll(step, projected, (h0,), layout)
    return h, last


class Loop(NamedTuple):
    """What a tanh or relu layer has in its loop besides W, which is (H, K H) for K delays.

    delays: rising from 1 on. leak: α, (H). gain, shift: of layer normalisation, (H). None: none.
    h0 is then (D, B, H), with D the farthest delay: h⁰, h⁻¹, …
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


def looped_layer(
    cell: str, given: Given, loop: Loop, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], Float[Tensor, "D B H"]]:
    """Return what `ops.looped_layer` returns: every hᵗ, and each row's last D states."""
    x, U, W, *_, h0 = given
    assert W is not None
    assert h0 is not None
    projected = x if U is None else project(x, U, given.input_bias(cell))
    f = torch.relu if cell == "relu" else torch.tanh
    h, last = unroll(looped(W, f, loop), projected, tuple(h0), layout)
    return h, torch.stack(last)


def project(
    x: Shaped[Tensor, "..."], U: Float[Tensor, "G I"], bias: Float[Tensor, " G"] | None = None
) -> Float[Tensor, "..."]:
    """Return b + U x, where x are rows of I numbers, or tokens: columns of U, or 0 for −1."""
    if x.is_floating_point():
        return torch.nn.functional.linear(x, U, bias)
    table = torch.cat([U.new_zeros(1, len(U)), U.t()])  # what −1 stands for comes first
    columns = torch.nn.functional.embedding(x + 1, table)
    return columns if bias is None else columns + bias


def elman(W: Float[Tensor, "H H"], f: Activation) -> Step:
    """Return the step hᵗ = f(pᵗ + W hᵗ⁻¹) (Elman 1990)."""

    def step(p: Float[Tensor, "B H"], state: State) -> State:
        (h,) = state
        return (f(torch.addmm(p, h, W.t())),)

    return step


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


def gru(W: Float[Tensor, "G H"], bias: Float[Tensor, " G"]) -> Step:
    """Return the step of a gated recurrent unit (Cho et al. 2014), as torch.nn.GRU writes it.

    (aᵣ, a_z, aₙ) = bias + W h, r = σ(pᵣ + aᵣ), z = σ(p_z + a_z), n = tanh(pₙ + r ⊙ aₙ),
    h ← (1 − z) ⊙ n + z ⊙ h.
    """

    def step(p: Float[Tensor, "B G"], state: State) -> State:
        (h,) = state
        H = h.shape[1]
        a = torch.addmm(bias, h, W.t())
        r, z = torch.sigmoid(p[:, : 2 * H] + a[:, : 2 * H]).chunk(2, dim=1)
        n = torch.tanh(p[:, 2 * H :] + r * a[:, 2 * H :])
        return (torch.lerp(n, h, z),)

    return step


def lstm(W: Float[Tensor, "G H"]) -> Step:
    """Return the step of a long short-term memory (Gers et al. 2000), as torch.nn.LSTM writes it.

    (i, f, g, o) = p + W h, c ← σ(f) ⊙ c + σ(i) ⊙ tanh(g), h ← σ(o) ⊙ tanh(c).
    """

    def step(p: Float[Tensor, "B G"], state: State) -> State:
        h, c = state
        i, f, g, o = torch.addmm(p, h, W.t()).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return step


def unroll(
    step: Step, projected: Float[Tensor, "... G"], state: State, layout: Layout = DENSE
) -> tuple[Float[Tensor, "... H"], State]:
    """Run `step` over time; return every h, laid out as `projected`, and each row's last state."""
    hidden = []
    masks = layout.steps(layout.resets) if layout.resets is not None else None
    for i, p in enumerate(layout.steps(projected)):
        now = tuple(part[: len(p)] for part in state)
        if masks is not None:
            now = tuple(part.masked_fill(masks[i].unsqueeze(1), 0) for part in now)
        moved = step(p, now)
        hidden.append(moved[0])
        if len(p) < len(state[0]):  # the other rows are past their end, or not yet begun
            moved = tuple(
                torch.cat([new, old[len(p) :]]) for new, old in zip(moved, state, strict=True)
            )
        state = moved
    if not hidden:
        return projected[..., : state[0].shape[1]], state  # no steps
    return layout.join(hidden), state
