"""How to compute an exact gradient within a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from bptt.errors import BpttError, as_bytes, bytes_as_text, require_kind, require_whole
from bptt.gradient.exact.memory import Costs, copies_of_gradients, measure
from bptt.gradient.exact.schedule import reruns
from bptt.gradient.sequences import Sequences, device_of
from bptt.kernel.ops import ROWS_AT_ONCE
from bptt.model.network import Network
from bptt.model.state import Regime

STATES_IN_USE = 3
"""Beside those held: that at the end of all, that before the chunk at hand, and its gradient."""
BYTES_IN_USE = 12_000
"""What else there is of the size of small states: two states of the random numbers."""
RERUN = 0.35
"""The time of a run without gradient, as a part of one forward and backward; measured, about."""
STEPS_A_CHUNK_COSTS = 128
"""What a chunk takes besides its steps, in steps: calls, small tensors."""
PARALLEL_ROWS = 1 << 13
"""Rows that are run at once where no step waits for another: what the cache holds, about."""
ABOUT_AS_FAST = 1.05
"""Of plans whose time is within this of the least, the one that needs the least memory is taken."""


@dataclass(frozen=True)
class Plan:
    """What `bptt.backward` does within a budget.

    steps: T. chunk: how many steps are run at once. snapshots: how many states are held, besides
    the first. memory: what that takes at its peak, as predicted, in bytes; None if not measured.
    is_parallel: whether no chunk needs anything of those before, so that reruns cost nothing.
    """

    steps: int
    chunk: int
    snapshots: int
    memory: int | None
    is_parallel: bool = False

    @classmethod
    def full(cls, steps: int) -> Plan:
        """Return the plan that keeps everything, whatever that takes."""
        return cls(steps, steps, 0, None)

    @property
    def chunks(self) -> int:
        """How many chunks there are; the last may be shorter."""
        return math.ceil(self.steps / self.chunk)

    @property
    def kind(self) -> str:
        """Which of three: "full" keeps everything, "two levels" every chunk's state, "revolve"."""
        if self.chunks == 1:
            return "full"
        return "two levels" if self.snapshots == self.chunks - 1 else "revolve"

    @property
    def reruns(self) -> int:
        """How many chunks are run without gradient, besides each one's run with it."""
        return reruns(self.chunks, self.snapshots)

    @property
    def recomputation(self) -> float:
        """What these reruns cost, as a multiple of one forward pass."""
        return 0.0 if self.is_parallel else self.reruns * self.chunk / self.steps

    def __str__(self) -> str:
        memory = "" if self.memory is None else f"{bytes_as_text(self.memory)}, "
        return (
            f"{self.kind}: {self.steps:,} steps in {self.chunks:,} chunks of {self.chunk:,}, "
            f"{self.snapshots:,} states held, {memory}{self.recomputation:.2f} extra forward passes"
        )


def require_model(net: object) -> None:
    """Raise BpttError unless a model can be what it is called: swapped arguments are not."""
    require_kind("net", net, nn.Module, "a bptt.Network, or a module that is called like one")


def plan(
    net: nn.Module,
    T: int,
    B: int,
    memory: int | str | None = None,
    *,
    y: Any = None,
    x: Any = None,
) -> Plan:
    """Return how `bptt.backward` would compute the exact gradient of T steps of B sequences.

    memory: the budget, in bytes or as in "64MB" (10⁶) and "64MiB" (2²⁰); None keeps everything.
    y, x: a few steps of data, (steps, B, ...), for a model that is no Network; or for what an x
    that asks for its gradient takes.
    Raises BpttError, with the least that would do, for a budget too small for any plan.

    The gradients themselves (.grad, also of x) and the data are not counted, but the copy that
    `bptt.backward` makes of each .grad that is there already, to put back if anything fails. What a
    step takes is measured on a few, so the model is run.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(65))
    >>> bptt.plan(net, T=1_000_000, B=1, memory="64MB").kind
    'two levels'
    """
    require_model(net)
    require_whole("T", T, 1)
    require_whole("B", B, 1)
    if y is None and isinstance(net, Network):
        probe = 2 * ROWS_AT_ONCE if net.is_parallel(Regime()) else 256
        y, x = net.example(min(T, probe), B)
    if y is None:
        raise BpttError(
            f"the model is a {type(net).__name__}; expected a Network, or y (and x) to run it on"
        )
    sequences = Sequences.checked(y, x, Regime(), None, device_of(net))
    if sequences.B != B:
        raise BpttError(f"y has {sequences.B} sequences; expected B = {B}")
    budget = None if memory is None else as_bytes("memory", memory)
    copies = copies_of_gradients(net.parameters())

    def costs(budget: int | None) -> Costs:
        return measure(net, sequences, None, budget).with_reserved(copies)

    rows = parallel_rows(net, sequences)
    if budget is None:
        return choose(costs(None), T, None, rows=rows)
    return choose_by(costs, T, budget, rows=rows)


class TooLittleError(BpttError):
    """A budget is below `least`, in bytes."""

    def __init__(self, budget: int, least: int) -> None:
        super().__init__(
            f"memory is {budget:,} bytes; expected at least {least:,}, which one time step takes"
        )
        self.least = least


def choose_by(
    costs: Callable[[int], Costs], T: int, budget: int, *, rows: int | None = None
) -> Plan:
    """Return what `choose` does with the costs that are measured for a budget.

    What a loop takes is estimated the better the more memory there is to try it in. So a budget is
    refused with one that has been tried.
    """
    least, plan = budget, None
    while plan is None:
        try:
            plan = choose(costs(least), T, least, rows=rows)
        except TooLittleError as refused:
            least = refused.least
    if least > budget:
        raise TooLittleError(budget, least)
    return plan


def choose(costs: Costs | None, T: int, budget: int | None, *, rows: int | None = None) -> Plan:
    """Return a plan that takes about the least time within the budget, or raise BpttError.

    rows: how many sequences a step has, if no step waits for another; None if steps wait.
    """
    is_parallel = rows is not None
    fastest = min(T, max(1, PARALLEL_ROWS // rows)) if rows is not None else T
    room = math.ceil(T / fastest) - 1
    if costs is None:
        return Plan(T, fastest, room, None, is_parallel)
    in_use = STATES_IN_USE * costs.state + BYTES_IN_USE
    full_memory = costs.chunk(fastest) + (in_use + room * costs.state if room else 0)
    if budget is None or full_memory <= budget:
        return Plan(T, fastest, room, full_memory, is_parallel)
    least_memory = min(full_memory, costs.chunk(1) + in_use)
    if least_memory > budget:
        raise TooLittleError(budget, least_memory)
    candidates = []
    for chunks in _counts_up_to(T):
        chunk = math.ceil(T / chunks)
        count = math.ceil(T / chunk)
        needed = costs.chunk(chunk) + in_use
        if count == 1 or needed > budget:
            continue
        room = min(count - 1, (budget - needed) // costs.state)
        rerun = 0 if is_parallel else RERUN * reruns(count, room)
        time = (rerun + count) * (chunk + STEPS_A_CHUNK_COSTS)
        candidates.append((time, needed + room * costs.state, chunk, room))
    fast_enough = ABOUT_AS_FAST * min(time for time, *_ in candidates)
    _, memory, chunk, room = min(
        (one for one in candidates if one[0] <= fast_enough), key=lambda one: one[1]
    )
    return Plan(T, chunk, room, memory, is_parallel)


def parallel_rows(net: nn.Module, sequences: Sequences) -> int | None:
    """Return how many rows a step has if no step waits for another, else None."""
    is_parallel = isinstance(net, Network) and net.is_parallel(sequences.regime)
    return sequences.B if is_parallel else None


def _counts_up_to(most: int) -> list[int]:
    """Return whole numbers from 1 to `most`, each at most a twentieth above the one before."""
    numbers = [1]
    while numbers[-1] < most:
        numbers.append(min(most, max(numbers[-1] + 1, numbers[-1] * 21 // 20)))
    return numbers
