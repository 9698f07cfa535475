"""One chunk of time: run a model over it without a graph, or with one and back.

A model is a Network, or any module that is called like one: `net(y, state=state)`, with `x=`,
`lengths=`, `resets=`, `forcing=` and `feedback=` where they are given, returns the nll, (T, B), and
the state, as a pair or as attributes of these names. Its state is a tensor or any nesting of
tuples, lists and dicts of tensors; it takes state=None for a fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.errors import BpttError, require_shape, shown
from bptt.gradient.sequences import Part
from bptt.model.network import Network


class Graph(NamedTuple):
    """A chunk that has been run with gradients on.

    loss: the chunk's, and after: the state at its end, both detached.
    roots, root_grads: from where to go backward, and with what: the loss, and the state at the end
    with the gradient that reached it from later chunks.
    """

    loss: Float[Tensor, ""]
    after: Any
    roots: list[Tensor]
    root_grads: list[Tensor | None]

    def backward(self) -> None:
        """Add the gradients of the leaves."""
        if self.roots:
            torch.autograd.backward(self.roots, self.root_grads)


def with_graph(
    net: nn.Module, part: Part, state: Any, grads_after: list[Tensor | None], scale: float
) -> Graph:
    """Run the model from a state made of leaves; grads_after: of the state's parts at the end.

    The loss is that of the nll alone; where there is a penalty, the gradient is that of both.
    """
    out, nll, after = call(net, part, state)
    loss = total = _summed(nll, part) * scale
    if part.penalty is not None:
        total = loss + _summed(_penalty_of(out, nll, part), part) * scale
    ends: list[tuple[Tensor, Tensor | None]] = [(total, None)] if total.requires_grad else []
    for end, grad in zip(pytree.tree_leaves(after), grads_after or (), strict=False):
        if grad is not None and isinstance(end, Tensor) and end.requires_grad:
            ends.append((end, grad))
    return Graph(loss.detach(), detach(after), [end for end, _ in ends], [g for _, g in ends])


def without_graph(net: nn.Module, part: Part, state: Any) -> Any:
    """Return the state at the end of the chunk."""
    with torch.no_grad():
        if isinstance(net, Network):
            return net.advance(part.y, x=part.x, state=state, **part.regime.options())
        return detach(call(net, part, state)[2])


def states_after(net: nn.Module, part: Part, state: Any, steps: Sequence[int]) -> list[Any]:
    """Return the state after each of several numbers of steps, which rise, of the chunk."""
    options = part.regime.options()
    if isinstance(net, Network) and net.recurrent.remembers_h_alone and "forcing" not in options:
        with torch.no_grad():
            return net.states_after(steps, part.y, x=part.x, state=state, **options)
    states, at = [], 0
    for step in steps:
        state = without_graph(net, part.steps(at, step), state) if step > at else detach(state)
        at = step
        states.append(state)
    return states


def detach(state: Any) -> Any:
    """Return the state cut off from what came before it."""
    return pytree.tree_map_only(Tensor, Tensor.detach, state)


def as_leaves(state: Any, *, wanted: bool | None = None) -> Any:
    """Return the state's tensors as leaves of a new graph.

    wanted: whether those that hold real numbers ask for gradients; by default where they do now.
    """

    def leaf(tensor: Tensor) -> Tensor:
        asks = tensor.requires_grad if wanted is None else wanted
        real = tensor.is_floating_point() or tensor.is_complex()
        return tensor.detach().requires_grad_(asks and real)

    return pytree.tree_map_only(Tensor, leaf, state)


def gradients(state: Any) -> list[Tensor | None]:
    """Return what reached the state's leaves."""
    return [leaf.grad if isinstance(leaf, Tensor) else None for leaf in pytree.tree_leaves(state)]


def unsynchronised(net: nn.Module) -> AbstractContextManager[None]:
    """Keep a DistributedDataParallel, or the like, from averaging gradients over processes."""
    no_sync = getattr(net, "no_sync", nullcontext)
    context: AbstractContextManager[None] = no_sync()
    return context


def _summed(each: Float[Tensor, "T B"], part: Part) -> Float[Tensor, ""]:
    """Return the sum over the steps that count, each with its weight."""
    each = each[part.unscored :]
    if part.weights is None:
        return each.sum()
    return (each * part.weights[part.unscored :].to(each.dtype)).sum()


def _penalty_of(out: Any, nll: Float[Tensor, "T B"], part: Part) -> Float[Tensor, "T B"]:
    """Return the penalty at every step, 0 where none counts, or raise BpttError if it is none."""
    assert part.penalty is not None
    value = part.penalty(out)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise BpttError(f"the penalty returned {shown(value)}; expected a tensor of real numbers")
    if value.shape not in ((), nll.shape):
        raise BpttError(
            f"the penalty returned a tensor of shape {tuple(value.shape)}; expected one number, or "
            f"one for each step and sequence, {tuple(nll.shape)}"
        )
    each = value.to(nll.dtype).expand(nll.shape)
    return each if part.weights is None else each.masked_fill(part.weights == 0, 0)


def call(net: nn.Module, part: Part, state: Any) -> tuple[Any, Tensor, Any]:
    """Return what the model returned, and the nll and the state in that."""
    inputs = {} if part.x is None else {"x": part.x}
    out = net(part.y, state=state, **inputs, **part.regime.options())
    if hasattr(out, "nll") and hasattr(out, "state"):
        nll, after = out.nll, out.state
    elif isinstance(out, tuple) and len(out) == 2:
        nll, after = out
    else:
        raise BpttError(
            f"{type(net).__name__} returned a {type(out).__name__}; expected the nll and the state"
        )
    require_shape("the nll that the model returned", nll.shape, "(T, B)", part.y.shape[:2])
    return out, nll, after
