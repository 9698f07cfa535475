"""Backpropagation through time, exact or truncated.

    ∂L/∂W = Σⱼ Σₖ≤ⱼ ∂Lⱼ/∂hⱼ · (Π ₘ₌ₖ₊₁..ⱼ ∂hₘ/∂hₘ₋₁) · ∂hₖ/∂W

Exact takes all k; truncated to a window p it takes those in the same chunk of p steps as j
(Williams and Peng 1990; Werbos 1990 for the exact form).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from bptt.errors import BpttError, require_choice, require_shape, require_whole
from bptt.model.network import Network, State


class Backward(NamedTuple):
    """What `backward` returns.

    loss: over the whole call, detached; in nats per step for reduction "mean", else in nats.
    steps: how many yᵗ it read, over all sequences.
    state: after the last step, detached, to go on from.
    """

    loss: Float[Tensor, ""]
    steps: int
    state: State


def backward(
    net: Network,
    y: Shaped[Tensor, "T B *y"],
    x: Shaped[Tensor, "T B *x"] | None = None,
    *,
    state: State | None = None,
    window: int | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    loss_weights: Float[Tensor, "T B"] | None = None,
    reduction: str = "mean",
) -> Backward:
    """Add the gradient of the loss to .grad, of the parameters and of x and state if they ask.

    window: None for the exact gradient; p to cut the path through time every p steps.
    lengths: (B,), where each sequence ends if that is before T.
    loss_weights: w, (T, B); 0 where there is no target.
    reduction: "mean" for Σ w·nll / Σ w, or "sum" for Σ w·nll, the textbook's L.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(3), hidden=4)
    >>> done = bptt.backward(net, torch.tensor([[0], [2], [1], [1]]), window=2)
    >>> done.steps, net.recurrent.weight_hh_l0.grad.shape
    (4, torch.Size([4, 4]))
    """
    require_choice("reduction", reduction, ("mean", "sum"))
    if window is not None:
        require_whole("window", window, 1)
    checked_y, x, alive = net.checked(y, x, lengths)  # all, before anything is added to .grad
    if checked_y is None:
        raise BpttError("y is missing; expected the targets of the loss")
    y = checked_y
    weights, total = _weights(loss_weights, alive, y, net)
    if reduction == "mean" and not 0 < total < float("inf"):
        raise BpttError(
            f"the loss weights sum to {total}; expected a positive, finite sum to divide by "
            '(or take reduction "sum")'
        )
    scale = 1 / total if reduction == "mean" else 1.0
    first = carried = _as_leaves(state)
    loss = weights.new_zeros(())
    x_leaves: list[Tensor] = []
    for start in range(0, len(y), window or len(y)):
        chunk = slice(start, start + (window or len(y)))
        chunk_x = None if x is None else _as_leaves(x[chunk])
        chunk_lengths = None if lengths is None else (lengths - start).clamp(0, len(y[chunk]))
        out = net(y[chunk], chunk_x, state=carried, lengths=chunk_lengths)
        chunk_loss = (out.nll * weights[chunk]).sum() * scale
        if chunk_loss.requires_grad:
            chunk_loss.backward()
        loss += chunk_loss.detach()
        carried = detach(out.state)
        if chunk_x is not None:
            x_leaves.append(chunk_x)
    _hand_on(x, x_leaves, state, first)
    return Backward(loss, weights.numel() if alive is None else int(alive.sum()), carried)


def detach(state: State) -> State:
    """Return the state cut off from what came before it."""
    detached: State = pytree.tree_map_only(Tensor, Tensor.detach, state)
    return detached


def _as_leaves(tree: Any) -> Any:
    """Return the tensors of a tree as the leaves of a new graph, where they ask for gradients."""
    return pytree.tree_map_only(Tensor, lambda t: t.detach().requires_grad_(t.requires_grad), tree)


def _hand_on(x: Tensor | None, x_leaves: list[Tensor], state: Any, state_leaves: Any) -> None:
    """Send the gradients that reached the leaves on, together, to what x and state were made of."""
    pairs = zip(pytree.tree_leaves(state), pytree.tree_leaves(state_leaves), strict=True)
    reached = [
        (tensor, leaf.grad)
        for tensor, leaf in pairs
        if isinstance(leaf, Tensor) and leaf.grad is not None
    ]
    if x is not None and x.requires_grad:
        chunks = [torch.zeros_like(c) if c.grad is None else c.grad for c in x_leaves]
        reached.append((x, torch.cat(chunks)))
    if reached:
        torch.autograd.backward([t for t, _ in reached], [grad for _, grad in reached])


def _weights(
    loss_weights: Tensor | None, alive: Tensor | None, y: Tensor, net: Network
) -> tuple[Float[Tensor, "T B"], float]:
    """Return w, zero beyond the sequences' ends, and its sum."""
    T, B = y.shape[:2]
    weights = net.readout.weight.new_ones(T, B)
    if loss_weights is not None:
        require_shape("loss_weights", loss_weights.shape, "(T, B)", (T, B))
        weights = loss_weights.detach().to(weights)
    if alive is not None:
        weights = weights * alive
    return weights, float(weights.sum())
