"""Ω, which keeps the norm of a gradient on its way back in time (Pascanu, Mikolov, Bengio 2013).

    Ω = Σₖ (‖∂L/∂aₖ₊₁ · ∂aₖ₊₁/∂aₖ‖ / ‖∂L/∂aₖ₊₁‖ − 1)²,    ∂aₖ₊₁/∂aₖ = W diag(f'(aₖ))

(Their equations 9 and 10, in which the state is what stands before f.) Its gradient is the
immediate one: ∂L/∂aₖ₊₁ and f' count as constants. So it is a reading of the backward loop, which
has δₖ₊₁ = ∂L/∂aₖ₊₁ and what is left of it a step before, and which looks, when it runs,
whether somebody in its thread wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from bptt.errors import BpttError
from bptt.kernel.layout import Layout
from bptt.kernel.plain import is_transformed
from bptt.kernel.plain_loop import differentiate

TINY = 1e-30
"""Of a gradient that is smaller, float32 does not know the direction."""
SMALL = {torch.float32: 1e-15, torch.float64: 1e-150}
"""Below this norms are computed with care."""

SLOPES: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    torch.tanh: lambda h: 1 - h * h,
    torch.relu: lambda h: (h > 0).to(h.dtype),
}
"""f′ where f is h."""

Rows = slice | Tensor


@dataclass
class OmegaTerm:
    """What Ω is to weigh in a backward pass, for each sequence, and what it came to.

    f: what h is of a + W h. matrices: each W whose Ω counts, or what it is computed from. value:
    Σ Ω over the backward passes until now. read: the addresses of those W whose loop had one.
    """

    weight: float
    f: Callable[[Tensor], Tensor]
    matrices: Sequence[Tensor]
    value: float = 0.0
    read: set[int] = field(default_factory=set)

    def is_of(self, W: Tensor) -> bool:
        """Return whether this W is among those whose Ω counts."""
        return not _origins(W).isdisjoint(matrix.data_ptr() for matrix in self.matrices)

    def add(self, value: float, W: Tensor) -> None:
        """Add what Ω came to in a loop."""
        self.value += value
        self.read |= _origins(W)

    @property
    def unread(self) -> list[Tensor]:
        """Each W through which no gradient has passed."""
        return [W for W in self.matrices if W.data_ptr() not in self.read]


_WANTED: ContextVar[OmegaTerm | None] = ContextVar("omega", default=None)
"""What a `reading` of this thread wants."""


@contextmanager
def reading(term: OmegaTerm | None) -> Iterator[None]:
    """Let the backward loops inside a with block read a term, or none, in this thread."""
    before = _WANTED.set(term)
    try:
        yield
    finally:
        _WANTED.reset(before)


def wanted(weights: Sequence[Tensor | None]) -> OmegaTerm | None:
    """Return the term that a loop is to read whose step has these weights: W, and nothing else."""
    term = _WANTED.get()
    if term is None or len(weights) != 1 or weights[0] is None or not term.is_of(weights[0]):
        return None
    return term


def _origins(W: Tensor) -> set[int]:
    """Return the addresses of what a matrix was computed from, as by dropout, or of itself."""
    if W.grad_fn is None:
        return {W.data_ptr()}
    found, seen, nodes = set[int](), set[Any](), [W.grad_fn]
    while nodes:
        node: Any = nodes.pop()
        if hasattr(node, "variable"):
            found.add(node.variable.data_ptr())
        nodes += [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(nodes)
    return found


def refuse_second_derivative() -> NoReturn:
    """Raise BpttError where Ω is asked for in a gradient that is to be differentiated, or a batch.

    Its gradient is the immediate one, in which the backward pass counts as constant.
    """
    raise BpttError(
        "omega is given in a backward pass with create_graph=True or a batch of gradients; "
        "expected one loss and first derivatives: Ω's gradient takes the backward pass as constant"
    )


class Reading(torch.autograd.Function):
    """A loop that is run plainly, as one node of the graph, which reads Ω on its way back.

    compute: a function of p, W and the first state, to h and the last state.
    """

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[..., tuple[Tensor, ...]],
        term: OmegaTerm,
        layout: Layout,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run the loop."""
        outputs = compute(*tensors)
        ctx.compute, ctx.term, ctx.layout = compute, term, layout
        ctx.save_for_backward(*tensors, outputs[0])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Run it again with a graph, differentiate that, and add Ω's gradient to W's."""
        if torch.is_grad_enabled() or is_transformed():
            refuse_second_derivative()
        *tensors, h = ctx.saved_tensors
        p, W, *_ = tensors
        needs = ctx.needs_input_grad[3:]
        leaves = [p.detach().requires_grad_(), *tensors[1:]]
        delta, of_W, *others = differentiate(ctx.compute, leaves, grads, (True, *needs[1:]))
        if delta is None:
            return (None,) * (3 + len(needs))
        ratio = omega_of_loop(delta, h, W.detach(), SLOPES[ctx.term.f], ctx.layout)
        ctx.term.add(float(ratio.omega), W)
        if of_W is not None:
            of_W = of_W.add(ratio.gradient, alpha=ctx.term.weight)
        return None, None, None, delta if needs[0] else None, of_W, *others


class Ratio(NamedTuple):
    """Ω of some steps, summed over them and the sequences, and its immediate gradient for W."""

    omega: Float[Tensor, ""]
    gradient: Float[Tensor, "H H"]


def omega_of_loop(
    delta: Float[Tensor, "... H"],
    h: Float[Tensor, "... H"],
    W: Float[Tensor, "H H"],
    slope: Callable[[Tensor], Tensor],
    layout: Layout,
) -> Ratio:
    """Return Ω of a loop, from δ and h at every step."""
    before, after = _pairs(layout, delta)
    later, slopes = delta.flatten(0, -2)[after], slope(h).flatten(0, -2)[before]
    return omega_of(later, (later @ W) * slopes, slopes)


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
    if norms.numel() == 0 or float(norms.min()) > SMALL[rows.dtype]:
        return norms
    largest = rows.abs().amax(dim=1, keepdim=True)
    scaled = torch.where(largest > TINY, rows / largest, 0)
    careful: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return careful * largest


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
