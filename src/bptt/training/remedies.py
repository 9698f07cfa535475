"""Ω: what keeps the norm of a gradient on its way back in time (Pascanu, Mikolov and Bengio 2013).

    Ω = Σₖ (‖∂L/∂aₖ₊₁ · ∂aₖ₊₁/∂aₖ‖ / ‖∂L/∂aₖ₊₁‖ − 1)²,    ∂aₖ₊₁/∂aₖ = W diag(f'(aₖ))

(Their equations 9 and 10, in which the state is what stands before f.) Its gradient is the
immediate one: ∂L/∂aₖ₊₁ and f' count as constants, so that it takes what the backward pass has in
its hands already, δₖ₊₁ = ∂L/∂aₖ₊₁, and two products; no second graph.
"""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel.layout import Layout
from bptt.model.layers import Feedforward
from bptt.model.network import Network

TINY = 1e-30
"""Of a gradient that is smaller, float32 does not know the direction."""


class Ratio(NamedTuple):
    """Ω of some steps, summed over them and the sequences, and its immediate gradient for W."""

    omega: Float[Tensor, ""]
    gradient: Float[Tensor, "H H"]


def omega_of(
    delta: Float[Tensor, "K B H"], slope: Float[Tensor, "K B H"], W: Float[Tensor, "H H"]
) -> Ratio:
    """Return Ω from δₖ₊₁ and f'(aₖ) of K pairs of neighbouring steps.

    Where no gradient arrives there is no ratio, and the pair counts for nothing.
    """
    d, s = delta.flatten(0, 1), slope.flatten(0, 1)
    largest = d.abs().amax(dim=1, keepdim=True)
    some = largest > TINY
    unit = torch.where(some, d / largest, 0)  # first to a size whose square float32 can hold
    unit = torch.where(some, unit / unit.norm(dim=1, keepdim=True), 0)
    back = (unit @ W).mul_(s)
    ratio = back.norm(dim=1, keepdim=True)
    some &= ratio > 0
    off = torch.where(some, ratio, 1) - 1
    unit.mul_(torch.where(some, 2 * off / ratio, 0))
    return Ratio(off.square().sum(), unit.t() @ back.mul_(s))


class Omega:
    """Adds weight · ∂Ω/∂W to W's .grad, from the backward passes inside its with block.

    Ω is the mean over sequences, and summed over the pairs of steps that were run together.
    value: Ω, after the block.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> with Omega(net, 4.0, sequences=2) as omega:
    ...     done = bptt.backward(net, torch.randint(5, (30, 2)))
    >>> omega.value > 0
    True
    """

    def __init__(self, net: Network, weight: float, *, sequences: int) -> None:
        require_omega(net)
        self.layer, self.cell = net.recurrent, net.cell
        self.weight, self.sequences = weight, sequences
        self.found: list[tuple[str, Ratio]] = []
        self.value = 0.0

    def __enter__(self) -> Omega:
        """Listen to the layer."""
        self.layer.listener = self._listen
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Add the gradient, unless something went wrong."""
        self.layer.listener = None
        if kind is not None:
            return
        for suffix, ratio in self.found:
            W = self.layer.get_parameter(f"weight_hh{suffix}")
            self.value += float(ratio.omega) / self.sequences
            if W.grad is not None:
                W.grad.add_(ratio.gradient, alpha=self.weight / self.sequences)

    def _listen(self, suffix: str, p: Tensor, h: Tensor, h0: Tensor, layout: Layout) -> None:
        """Wait for the gradient of p, which is δ."""
        if not p.requires_grad or not torch.is_grad_enabled():
            return
        W = self.layer.get_parameter(f"weight_hh{suffix}").detach()
        states = h.detach()

        def take(delta: Tensor) -> None:
            slope = 1 - states * states if self.cell == "tanh" else (states > 0).to(states.dtype)
            if layout.batch_sizes is None:
                self.found.append((suffix, omega_of(delta[1:], slope[:-1], W)))
                return
            sizes = layout.batch_sizes.tolist()
            before = slope.split(sizes)
            pairs = zip(delta.split(sizes)[1:], before, strict=False)
            rows = [(d, s[: len(d)]) for d, s in pairs]
            d, s = (torch.cat(some).unsqueeze(0) for some in zip(*rows, strict=True))
            self.found.append((suffix, omega_of(d, s, W)))

        p.register_hook(take)


def require_omega(net: Network) -> None:
    """Raise BpttError unless the network has what Ω is about."""
    if net.cell not in ("tanh", "relu"):
        raise BpttError(f'omega is given with cell "{net.cell}"; expected tanh or relu')
    if isinstance(net.recurrent, Feedforward):
        raise BpttError(
            'omega is given with recurrence "output"; expected "hidden" or "both", which have a W'
        )
