"""One sweep back through time: the exact gradient of some steps, chunk by chunk."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.errors import BpttError
from bptt.gradient.exact import chunks
from bptt.gradient.exact.plan import Plan
from bptt.gradient.exact.schedule import Hold, revolve
from bptt.gradient.sequences import Sequences

RandomState = tuple[Tensor, ...]


class Swept(NamedTuple):
    """What a sweep gives.

    loss: of all steps; after: the state at their end, detached; first: the leaves of the state at
    their start, with its gradient.
    """

    loss: Float[Tensor, ""]
    after: Any
    first: Any


def sweep(
    net: nn.Module,
    sequences: Sequences,
    state: Any,
    plan: Plan,
    scale: float,
    *,
    synchronise: bool = True,
) -> Swept:
    """Add the gradients of the model's parameters to .grad, and that of x to sequences.grad_x.

    synchronise: whether a DistributedDataParallel is to average the gradients at the end of this.
    """
    held = Snapshots(plan.snapshots, chunks.as_leaves(state))
    first = held.state
    loss: Tensor | None = None
    after = random_after = None
    grads: list[Tensor | None] = []
    for action in revolve(plan.chunks, plan.snapshots):
        carried = held.state
        if plan.chunks > 1:
            set_random_state(held.random)
        for i in range(held.chunk, action.chunk):
            part = sequences.part(*_bounds(plan, i))
            carried = chunks.without_graph(net, part, carried)
        if isinstance(action, Hold):
            held.push(action.chunk, carried)
            continue
        at_start = action.chunk == 0
        leaves = first if at_start else chunks.as_leaves(carried, wanted=True)
        with nullcontext() if at_start and synchronise else chunks.unsynchronised(net):
            its_loss, its_after = _reverse(
                net, sequences, plan, action.chunk, leaves, grads, scale=scale
            )
        if loss is None:  # the last chunk, which comes first
            loss, after, random_after = torch.zeros_like(its_loss), its_after, random_state()
        loss += its_loss
        grads = chunks.gradients(leaves)
        if held.chunk == action.chunk:
            held.pop()
    assert loss is not None
    assert random_after is not None
    set_random_state(random_after)
    return Swept(loss, after, first)


def _reverse(
    net: nn.Module,
    sequences: Sequences,
    plan: Plan,
    chunk: int,
    leaves: Any,
    grads_after: list[Tensor | None],
    *,
    scale: float,
) -> tuple[Tensor, Any]:
    """Run a chunk forward and backward; return its loss and the state after it."""
    start, stop = _bounds(plan, chunk)
    part = sequences.part(start, stop)
    run = chunks.with_graph(net, part, leaves, grads_after, scale)
    run.backward()
    sequences.add_gradient(start, part)
    return run.loss, run.after


def _bounds(plan: Plan, chunk: int) -> tuple[int, int]:
    return chunk * plan.chunk, min((chunk + 1) * plan.chunk, plan.steps)


class Snapshots:
    """The states that are held, the last on top, with the chunk that each is the start of.

    They lie in one tensor for each part of the state: one for each state would take far more than
    its numbers. The first stays what was given. With each goes the state of torch's random numbers,
    so that dropout drops the same when a chunk is run again.
    """

    def __init__(self, room: int, first: Any) -> None:
        self.room, self.first = room, first
        self.chunks, self.randoms = [0], [random_state()]
        self.buffers: list[Any] = []
        self.structure: Any = None

    @property
    def chunk(self) -> int:
        """The chunk that the last state is the start of."""
        return self.chunks[-1]

    @property
    def random(self) -> RandomState:
        """The state of the random numbers there."""
        return self.randoms[-1]

    @property
    def state(self) -> Any:
        """The last state."""
        if len(self.chunks) == 1:
            return self.first
        slot = len(self.chunks) - 2
        return pytree.tree_unflatten([buffer[slot] for buffer in self.buffers], self.structure)

    def push(self, chunk: int, state: Any) -> None:
        """Hold one more state."""
        leaves, structure = pytree.tree_flatten(state)
        if not self.buffers:
            self.structure = structure
            self.buffers = [
                leaf.new_empty(self.room, *leaf.shape)
                if isinstance(leaf, Tensor)
                else [None] * self.room
                for leaf in leaves
            ]
        for buffer, leaf in zip(self.buffers, leaves, strict=True):
            if isinstance(leaf, Tensor) and leaf.shape != buffer.shape[1:]:
                raise BpttError(
                    f"a part of the model's state has shape {tuple(leaf.shape)} at the start of "
                    f"chunk {chunk}; expected {tuple(buffer.shape[1:])}, as before"
                )
            buffer[len(self.chunks) - 1] = leaf
        self.chunks.append(chunk)
        now = random_state()
        unchanged = all(map(torch.equal, now, self.random))
        self.randoms.append(self.random if unchanged else now)

    def pop(self) -> None:
        """Drop the last state."""
        self.chunks.pop()
        self.randoms.pop()


def random_state() -> RandomState:
    """Return the state of torch's random numbers, on the CPU and on each CUDA device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), *cuda


def set_random_state(state: RandomState) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
