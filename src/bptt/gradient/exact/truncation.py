"""Where a truncated gradient is cut, and how windows that overlap are run side by side.

The losses j in (is, e], e = min((i + 1)s, T), share one sweep, which reaches k > e − p (Williams
and Peng 1990: BPTT(h; h')). All that end within the first p steps reach the start, so one sweep
serves them together; after it every window is p steps long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.gradient.exact import chunks
from bptt.gradient.exact.memory import Costs, measure
from bptt.gradient.exact.plan import Plan, choose, choose_by
from bptt.gradient.exact.sweep import Swept, sweep
from bptt.gradient.sequences import Part, Sequences
from bptt.model.state import Regime

MOST_ROWS = 512
"""Sequences side by side beyond which more of them no longer make a step cheaper."""


class Truncation(NamedTuple):
    """How to truncate: to `window` steps, with `stride` losses a window, in a budget of bytes.

    reserved: what of the budget is taken already.
    """

    window: int
    stride: int
    budget: int | None
    reserved: int = 0


def sweep_windows(
    net: nn.Module, sequences: Sequences, state: Any, truncation: Truncation, scale: float
) -> Swept:
    """Add the truncated gradient, as `sweep` does the exact one."""
    T = sequences.T
    window, stride, budget, reserved = truncation
    first = sequences.block(0, window, 0)

    def costs(budget: int) -> Costs:
        return measure(net, first, state, budget).with_reserved(reserved)

    axes = batch_axes(net, sequences) if stride < window else None
    group = 1 if axes is None else largest_group(net, sequences, truncation)
    pace = window if budget is None else choose_by(costs, window, budget).chunk
    known = {0: chunks.detach(state)}  # by the step that comes next
    head: Swept | None = None
    loss: Tensor | float = 0.0
    for batch in windows(T, window, stride, group):
        known = states_before(net, sequences, known, batch.starts, pace)
        block = sequences.windows(batch.starts, batch.steps, batch.first)
        plan = Plan.full(batch.steps)
        if budget is not None and len(known) == 1:
            plan = choose(costs(budget), batch.steps, budget)
        start_state = side_by_side(list(known.values()), axes) if head else state
        swept = sweep(net, block, start_state, plan, scale, synchronise=batch.stop == T)
        sequences.add_windows(batch.starts, block)
        head = head or swept
        loss = loss + swept.loss
        last_start = batch.starts[-1]
        after = last_of(swept.after, axes, len(batch.starts))
        known = {last_start: known[last_start], batch.stop: after}
    assert head is not None
    return Swept(torch.as_tensor(loss), after, head.first)


def states_before(
    net: nn.Module, sequences: Sequences, known: dict[int, Any], wanted: Iterable[int], pace: int
) -> dict[int, Any]:
    """Return the states before steps that are wanted, which rise, from one that is known."""
    steps = list(wanted)
    at = max(step for step in known if step <= steps[0])
    states = {at: known[at]}
    for start in range(at, steps[-1], pace):
        stop = min(start + pace, steps[-1])
        marks = [*(step for step in steps if start < step < stop), stop]
        part = sequences.part(start, stop)
        after = chunks.states_after(net, part, states[start], [mark - start for mark in marks])
        states.update(zip(marks, after, strict=True))
    return {step: states[step] for step in steps}


class Windows(NamedTuple):
    """Windows to be run side by side: where each starts, their length, and where losses begin."""

    starts: range
    steps: int
    first: int

    @property
    def stop(self) -> int:
        """Where the last one ends."""
        return self.starts[-1] + self.steps


def windows(T: int, window: int, stride: int, group: int) -> Iterator[Windows]:
    """Yield all windows, at most `group` of them at a time.

    >>> for batch in windows(T=8, window=4, stride=2, group=9): print(batch)
    Windows(starts=range(0, 1), steps=4, first=0)
    Windows(starts=range(2, 5, 2), steps=4, first=2)
    """
    end = T if window >= T else window // stride * stride
    yield Windows(range(1), end, 0)
    while end < T:
        several = min(group, (T - end) // stride)
        if several > 0:
            start = end + stride - window
            starts = range(start, start + (several - 1) * stride + 1, stride)
            yield Windows(starts, window, window - stride)
            end += several * stride
        else:  # the last losses, fewer than a stride
            yield Windows(range(T - window, T - window + 1), window, window - (T - end))
            end = T


def largest_group(net: nn.Module, sequences: Sequences, truncation: Truncation) -> int:
    """Return how many windows to run side by side.

    As many as fit in the budget; without one, as keep no more states than the exact gradient does.
    What they take is measured on as many as there are threads, each of which has memory of its own.
    """
    window, stride, budget, reserved = truncation
    if budget is None:
        most = sequences.T // window
    else:
        several = max(1, min(torch.get_num_threads(), (sequences.T - window) // stride + 1))
        block = sequences.windows(range(0, several * stride, stride), window, 0)
        costs = measure(net, block, None, budget).with_reserved(reserved)
        each = costs.step * window / several + 2 * costs.state / several
        most = int(((budget - costs.fixed) // each).min())
    return max(1, min(most, MOST_ROWS // sequences.B))


def batch_axes(net: nn.Module, sequences: Sequences) -> list[int] | None:
    """Return along which axis of each part of the state the sequences lie; None if not of each.

    It is the one that doubles when the sequences do.
    """
    part = sequences.part(0, 1)
    lengths, resets, forcing, feedback = part.regime

    def double(rows: Any, axis: int = 1) -> Any:
        return torch.cat([rows, rows], axis) if isinstance(rows, Tensor) else rows

    regime = Regime(double(lengths, 0), double(resets), double(forcing), feedback)
    twice = Part(double(part.y), double(part.x), regime, None, 0)
    with torch.random.fork_rng(), chunks.unsynchronised(net):
        one, two = (pytree.tree_leaves(chunks.without_graph(net, p, None)) for p in (part, twice))
    axes = []
    for a, b in zip(one, two, strict=True):
        if a is None and b is None:
            axes.append(0)
            continue
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.ndim != b.ndim:
            return None
        grown = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        if len(grown) != 1 or b.shape[grown[0]] != 2 * a.shape[grown[0]]:
            return None
        axes.append(grown[0])
    return axes


def side_by_side(states: list[Any], axes: list[int] | None) -> Any:
    """Return the states of several windows as one."""
    if len(states) == 1:
        return states[0]
    assert axes is not None
    leaves = [pytree.tree_leaves(state) for state in states]
    structure = pytree.tree_structure(states[0])
    joined = [
        torch.cat(parts, axis) if isinstance(parts[0], Tensor) else parts[0]
        for parts, axis in zip(zip(*leaves, strict=True), axes, strict=True)
    ]
    return pytree.tree_unflatten(joined, structure)


def last_of(state: Any, axes: list[int] | None, several: int) -> Any:
    """Return the last window's state out of several side by side."""
    if several == 1:
        return state
    assert axes is not None
    leaves, structure = pytree.tree_flatten(state)
    last = [
        leaf.chunk(several, axis)[-1].clone() if isinstance(leaf, Tensor) else leaf
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    return pytree.tree_unflatten(last, structure)
