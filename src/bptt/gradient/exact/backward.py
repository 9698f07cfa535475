"""Backpropagation through time: exact, exact in bounded memory, or truncated.

    ∂L/∂W = Σⱼ Σₖ≤ⱼ ∂Lⱼ/∂hⱼ · (Π ₘ₌ₖ₊₁..ⱼ ∂hₘ/∂hₘ₋₁) · ∂hₖ/∂W

Exact takes all k (Werbos 1990); truncated to a window p it takes those no more than about p steps
before j (Williams and Peng 1990).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.cells.cell import Cell
from bptt.errors import BpttError, as_bytes, require_callable, require_choice, require_window
from bptt.gradient.exact import chunks
from bptt.gradient.exact.memory import Costs, copies_of_gradients, measure
from bptt.gradient.exact.plan import choose, choose_by, parallel_rows, require_model
from bptt.gradient.exact.sweep import sweep
from bptt.gradient.exact.truncation import Truncation, sweep_windows
from bptt.gradient.sequences import Penalty, Sequences, device_of
from bptt.model.chance import undrawn_on_failure
from bptt.model.dropout import units_dropped
from bptt.model.entry import require_steady
from bptt.model.state import Regime, is_random


class Backward(NamedTuple):
    """What `backward` returns.

    loss: over the whole call, detached; in nats per step for reduction "mean", else in nats;
    without the penalty.
    steps: how many yᵗ it read, over all sequences.
    state: after the last step, detached, to go on from.
    """

    loss: Float[Tensor, ""]
    steps: int
    state: Any


def backward(
    net: nn.Module,
    y: Shaped[Tensor | np.ndarray, "T B *y"],
    *,
    x: Shaped[Tensor | np.ndarray, "T B *x"] | None = None,
    state: Any = None,
    window: int | None = None,
    stride: int | None = None,
    memory: int | str | None = None,
    forcing: float | Bool[Tensor, "T B"] = 1.0,
    feedback: str = "sample",
    lengths: Int[Tensor, " B"] | None = None,
    resets: Bool[Tensor, "T B"] | None = None,
    loss_weights: Float[Tensor | np.ndarray, "T B"] | None = None,
    reduction: str = "mean",
    penalty: Penalty | None = None,
) -> Backward:
    """Add the gradient of the loss to .grad, of the parameters and of x and state if they ask.

    net: a Network, or any module called like one (see `bptt.gradient.exact.chunks`).
    y, x: tensors, or numpy arrays, of which only the chunk at hand is read: they may be mapped from
    files larger than memory.
    window: None for the exact gradient. p: the losses j in (is, e], with e = min((i + 1)s, T),
    reach back to k > e − p. stride: s, from 1 to p, by default p.
    memory: how much to work in, in bytes or as in "64MB"; what does not fit is computed again. By
    default all states are kept. The gradients themselves are not counted, but a copy of each .grad
    that there is already; `bptt.plan` tells more.
    forcing, feedback: what enters as yᵗ⁻¹, as in a call of the net: by default the true one.
    lengths: (B,), where each sequence ends if that is before T. resets: (T, B), the steps before
    which a sequence's state is zeroed.
    loss_weights: w, (T, B); 0 where there is no target.
    reduction: "mean" for Σ w·nll / Σ w, or "sum" for Σ w·nll, the textbook's L.
    penalty: a function of what a call of the net returned, a chunk at a time, to what is added to
    the nll of each step before w: (T, B), or one number for all of them, such as a mean (see
    `bptt.penalties`). Its gradient is added too; the loss that is returned is without it.

    Whatever is raised half way, each .grad is then what it was before; so are random numbers.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(3), hidden=4)
    >>> done = bptt.backward(net, torch.tensor([[0], [2], [1], [1]]), window=2)
    >>> done.steps, net.recurrent.weight_hh_l0.grad.shape
    (4, torch.Size([4, 4]))
    """
    require_model(net)
    require_choice("reduction", reduction, ("mean", "sum"))
    require_window(window, stride)
    budget = None if memory is None else as_bytes("memory", memory)
    regime = Regime(lengths, resets, forcing, feedback)
    if penalty is not None:
        require_callable("penalty", penalty, "a function of what the net returns, or None")
    sequences = Sequences.checked(y, x, regime, loss_weights, device_of(net), penalty)
    if budget is not None or (window or sequences.T) < sequences.T:
        require_steady(net)
    scale = 1 / _total_weight(sequences) if reduction == "mean" else 1.0
    leaves = [*net.parameters(), *_leaves_behind([x, *pytree.tree_leaves(state)])]
    copies = copies_of_gradients(leaves)
    unchanged = _unchanged_on_failure(leaves)
    with unchanged, undrawn_on_failure(), torch.enable_grad(), units_dropped(net):
        if window is None or window >= sequences.T:
            rows = parallel_rows(net, sequences)

            def costs(budget: int) -> Costs:
                return measure(net, sequences, state, budget).with_reserved(copies)

            if budget is None:
                plan = choose(None, sequences.T, None, rows=rows)
            else:
                plan = choose_by(costs, sequences.T, budget, rows=rows)
            swept = sweep(net, sequences, state, plan, scale)
        else:
            truncation = Truncation(window, stride or window, budget, copies)
            _require_repeatable(net, truncation, regime)
            swept = sweep_windows(net, sequences, state, truncation, scale)
        _hand_on(x, sequences.grad_x, state, swept.first)
    return Backward(swept.loss, sequences.steps, swept.after)


def _require_repeatable(net: nn.Module, truncation: Truncation, regime: Regime) -> None:
    """Raise BpttError where windows that overlap would each draw other values for the same step."""
    cells = [module for module in net.modules() if isinstance(module, Cell) and module.is_noisy]
    if truncation.stride < truncation.window and cells:
        raise BpttError(
            f"stride is {truncation.stride} with a {type(cells[0]).__name__} that draws noise; "
            f"expected the window, {truncation.window}, or the network in eval()"
        )
    if truncation.stride < truncation.window and is_random(regime.forcing, regime.feedback):
        raise BpttError(
            f"stride is {truncation.stride} with forcing by chance; expected the window, "
            f"{truncation.window}, "
            'or a forcing that gives the same each time: 1, or a (T, B) mask with feedback "mean"'
        )


def _total_weight(sequences: Sequences) -> float:
    """Return Σ w, to divide by, or raise BpttError."""
    total = sequences.total_weight()
    if not 0 < total < float("inf"):
        raise BpttError(
            f"the loss weights sum to {total}; expected a positive, finite sum to divide by "
            '(or take reduction "sum")'
        )
    return total


def _hand_on(x: Any, grad_x: Tensor | None, state: Any, state_leaves: Any) -> None:
    """Send the gradients that reached x and the state on, together, to what these were made of."""
    pairs = zip(pytree.tree_leaves(state), chunks.gradients(state_leaves), strict=True)
    reached = [(tensor, grad) for tensor, grad in pairs if grad is not None]
    if grad_x is not None:
        reached.append((x, grad_x))
    if reached:
        torch.autograd.backward([t for t, _ in reached], [grad for _, grad in reached])


@contextmanager
def _unchanged_on_failure(leaves: list[Tensor]) -> Iterator[None]:
    """Put every .grad back as it was if anything is raised, Ctrl-C and the like included."""
    before = [(leaf, leaf.grad) for leaf in leaves]
    copies = [None if grad is None else grad.clone() for _, grad in before]
    try:
        yield
    except BaseException:
        for (leaf, grad), copy in zip(before, copies, strict=True):
            leaf.grad = grad
            if grad is not None and copy is not None:
                grad.copy_(copy)
        raise


def _leaves_behind(tensors: list[Any]) -> list[Tensor]:
    """Return the tensors to whose .grad a backward pass from these would add."""
    asking = [t for t in tensors if isinstance(t, Tensor) and t.requires_grad]
    leaves = [t for t in asking if t.grad_fn is None]
    nodes, seen = [t.grad_fn for t in asking], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes.extend(before for before, _ in node.next_functions)
    return leaves
