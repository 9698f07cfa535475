"""Ω: what keeps the norm of a gradient on its way back in time (Pascanu, Mikolov and Bengio 2013).

    Ω = Σₖ (‖∂L/∂aₖ₊₁ · ∂aₖ₊₁/∂aₖ‖ / ‖∂L/∂aₖ₊₁‖ − 1)²,    ∂aₖ₊₁/∂aₖ = W diag(f'(aₖ))

(Their equations 9 and 10, in which the state is what stands before f.) Its gradient is the
immediate one: ∂L/∂aₖ₊₁ and f' count as constants, so that it takes what the backward pass has in
its hands already, δₖ₊₁ = ∂L/∂aₖ₊₁ and what is left of it a step before, and one product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.cells.cell import Activation
from bptt.cells.registry import ELMAN
from bptt.errors import BpttError
from bptt.kernel.layout import Layout
from bptt.kernel.omega import OmegaTerm, refuse_second_derivative
from bptt.model.feedforward import Feedforward
from bptt.model.network import Network
from bptt.model.stack import Stack

TINY = 1e-30
"""Of a gradient that is smaller, float32 does not know the direction."""
SMALL = {torch.float32: 1e-15, torch.float64: 1e-150}
"""Below this norms are computed with care."""


SLOPES: dict[Activation, Activation] = {
    torch.tanh: lambda h: 1 - h * h,
    torch.relu: lambda h: (h > 0).to(h.dtype),
}
"""f′ where f is h."""

Rows = slice | Tensor


def clip_gradient(
    parameters: Iterable[Tensor], norm: float = math.inf, value: float | None = None
) -> float:
    """Clip the gradient in place, each part to a value first, and then the whole to a norm.

    g ← g · min(1, norm / ‖g‖) (Pascanu et al. 2013, algorithm 1). Returns ‖g‖ as it was before
    that. It is added up in float64: exploding gradients are those whose squares overflow.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if value is not None:
        for grad in grads:
            grad.clamp_(-value, value)
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in grads]
    total_norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
    if norm < total_norm < math.inf:
        for grad in grads:
            grad.mul_(norm / total_norm)
    return total_norm


class Ratio(NamedTuple):
    """Ω of some steps, summed over them and the sequences, and its immediate gradient for W."""

    omega: Float[Tensor, ""]
    gradient: Float[Tensor, "H H"]


def omega_of(
    delta: Float[Tensor, "K H"], back: Float[Tensor, "K H"], slope: Float[Tensor, "K H"]
) -> Ratio:
    """Return Ω from K pairs of neighbouring steps.

    delta: δₖ₊₁. back: δₖ₊₁ W diag(f'(aₖ)), what is left of it a step before. slope: f'(aₖ). Where
    no gradient arrives there is no ratio, and the pair counts for nothing.
    """
    before, after = _norms(delta), _norms(back)
    nonzero = (before > 0) & (after > 0)
    ratio = torch.where(nonzero, after / before, 1)
    scale = torch.where(nonzero, 2 * (ratio - 1) / (after * before), 0)
    if bool(scale.isfinite().all()):
        return Ratio((ratio - 1).square().sum(), delta.t() @ (back * slope).mul_(scale))
    # Both of a pair may be so small that the product of their norms is 0: first to size 1.
    unit, left = (torch.where(nonzero, v / before, 0) for v in (delta, back))
    scale = torch.where(nonzero, 2 * (ratio - 1) / ratio, 0)
    return Ratio((ratio - 1).square().sum(), unit.t() @ (left * slope).mul_(scale))


def _norms(rows: Float[Tensor, "K H"]) -> Float[Tensor, "K 1"]:
    """Return the norm of each row, also of rows whose squares are too small for their dtype."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if float(norms.min()) > SMALL[rows.dtype]:
        return norms
    largest = rows.abs().amax(dim=1, keepdim=True)
    scaled = torch.where(largest > TINY, rows / largest, 0)
    careful: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return careful * largest


class Omega:
    """Adds weight · ∂Ω/∂W to W's .grad, from the backward passes inside its with block.

    Ω is the mean over sequences, and summed over the pairs of steps that were run together. Where
    means are fed back, there is none. torch.compile leaves the layer alone while Ω is asked for.
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
        f = net.f
        assert f is not None  # require_omega has seen to it
        self.layer, self.f = net.recurrent, f
        self.weight, self.sequences = weight, sequences
        self.by_kernel = OmegaTerm(weight / sequences)
        self.terms: list[tuple[str, Ratio, Tensor | float]] = []
        self.value = 0.0

    def __enter__(self) -> Omega:
        """Tell the layer's kernel; and listen to the layer, for where there is none."""
        self.layer.omega, self.layer.listener = self.by_kernel, self._listen
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Add the gradient, unless something went wrong."""
        self.layer.omega = self.layer.listener = None
        if kind is not None:
            return
        self.value = self.by_kernel.value / self.sequences
        for suffix, ratio, mask in self.terms:
            W = self.layer.get_parameter(f"weight_hh{suffix}")
            self.value += float(ratio.omega) / self.sequences
            if W.grad is not None:
                W.grad.add_(ratio.gradient * mask, alpha=self.weight / self.sequences)

    def _listen(
        self, layer: Stack, suffix: str, p: Tensor, h: Tensor, h0: Tensor, layout: Layout
    ) -> None:
        """Wait for the gradient of p, which is δ."""
        if not p.requires_grad or not torch.is_grad_enabled() or p.numel() == 0:
            return
        mask = layer.dropped.get(f"weight_hh{suffix}", 1.0)
        states, from_above = h.detach(), list[Tensor]()

        def take_from_above(grad: Tensor) -> None:
            if torch.is_grad_enabled():
                refuse_second_derivative()
            from_above.append(grad)

        h.register_hook(take_from_above)

        def take(delta: Tensor) -> None:
            slope = SLOPES[self.f](states)
            # δₖ = f'(aₖ) ⊙ (Wᵀ δₖ₊₁ + what came from above): the backward pass has taken the step.
            back = delta if not from_above else torch.addcmul(delta, slope, from_above[0], value=-1)
            rows = [values.flatten(0, -2) for values in (delta, back, slope)]
            before, after = _pairs(layout, delta)
            later, earlier, its_slope = rows[0][after], rows[1][before], rows[2][before]
            self.terms.append((suffix, omega_of(later, earlier, its_slope), mask))

        p.register_hook(take)


def _pairs(layout: Layout, rows: Float[Tensor, "... H"]) -> tuple[Rows, Rows]:
    """Return which rows, one after the other, come a step before which others.

    There is nothing between two steps where the state is reset.
    """
    if layout.batch_sizes is None:
        B = rows.shape[1]
        if layout.resets is None:
            return slice(0, -B), slice(B, None)
        after = torch.arange(B, len(rows) * B)
        before = after - B
    else:
        sizes = layout.batch_sizes
        starts = sizes.cumsum(0) - sizes
        after = torch.arange(int(sizes[0]), len(rows))
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)[int(sizes[0]) :]
        before = after - starts[step] + starts[step - 1]
    if layout.resets is None:
        return before, after
    goes_on = ~layout.resets.flatten()[after]
    return before[goes_on], after[goes_on]


def require_omega(net: Network) -> None:
    """Raise BpttError unless the network has what Ω is about."""
    if net.f is None:
        raise BpttError(f'omega is given with cell "{net.cell}"; expected {" or ".join(ELMAN)}')
    if net.loop.beside_w:
        raise BpttError(
            f"omega is given with {' and '.join(net.loop.beside_w)}; expected one or the other: it "
            "keeps the gradient on its one way through W, and theirs has others"
        )
    if isinstance(net.recurrent, Feedforward):
        raise BpttError(
            'omega is given with recurrence "output"; expected "hidden" or "both", which have a W'
        )
    for name in (f"weight_hh_l{k}" for k in range(int(net.recurrent.num_layers))):
        if name not in net.recurrent._parameters:
            raise BpttError(
                f"omega is given, and {name} is computed from other parameters; expected W itself "
                "as a parameter: remove the pruning or parametrization"
            )
