"""What a model's gradient takes, in bytes: measured on a few steps, not modelled."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.gradient.exact.chunks import as_leaves, unsynchronised, with_graph, without_graph
from bptt.gradient.sequences import Sequences
from bptt.kernel.omega import reading
from bptt.kernel.ops import ROWS_AT_ONCE
from bptt.kernel.plain import Bystander
from bptt.model.network import Network

BYTES_BESIDES_NUMBERS = 1024
"""What a tensor takes besides its numbers: its objects, and its node in the graph, about."""
PROBE, PROBE_OF_A_LOOP = 4, 64
MARGIN_OF_A_LOOP = 1.25
"""By how much more a long chunk of a loop may take for a step: its peak may be elsewhere."""


class Costs(NamedTuple):
    """Bytes: a chunk of c steps takes fixed + step · c, the most over several moments.

    At each of these other things are in memory, some of which grow with c and some not.
    single: what one step takes, where it was measured by itself.
    """

    fixed: Float64[np.ndarray, " moments"]
    step: Float64[np.ndarray, " moments"]
    state: int
    single: int | None = None

    def with_reserved(self, size: int) -> Costs:
        """Return the costs with so many bytes more in memory all the time."""
        single = None if self.single is None else self.single + size
        return self._replace(fixed=self.fixed + size, single=single)

    def chunk(self, steps: int) -> int:
        """Return what running a chunk forward and backward takes, at its peak."""
        if steps == 1 and self.single is not None:
            return self.single
        return int((self.fixed + self.step * steps).max())

    def steps(self, budget: int) -> int:
        """Return how long a chunk may be."""
        return int(((budget - self.fixed) / np.maximum(self.step, 1)).min())


def measure(net: nn.Module, sequences: Sequences, state: Any, budget: int | None = None) -> Costs:
    """Run the model over the first few steps, twice, leaving no trace, and count.

    If it makes the same tensors in the same order for any number of steps, only longer ones, two
    short runs tell what is in memory at each moment for every length. If it does not, it loops over
    the steps, and two longer runs, of what fits in the budget, tell how the peak grows.

    It takes milliseconds, so what was found is kept while the net is, for data of the same kind.
    """
    known = _MEASURED.setdefault(net, {})
    probe = _probe(net, sequences)
    key = (
        tuple((type(module), module.training) for module in net.modules()),
        _kind([*net.parameters(), *_tensors(state)]),
        sequences.kind,
        min(sequences.T, max(probe, PROBE_OF_A_LOOP)),
        budget,
    )
    if key not in known:
        known[key] = _measure(net, sequences, state, budget, probe)
    return known[key]


def _probe(net: nn.Module, sequences: Sequences) -> int:
    """Return how many steps to run, of which half are a run of their own.

    Where no step waits for another the kernel takes so many rows at once, whatever step they are
    of; with fewer its memory grows, and with more it does not.
    """
    if isinstance(net, Network) and net.is_parallel(sequences.regime):
        return max(PROBE, 2 * math.ceil(ROWS_AT_ONCE / sequences.B))
    return PROBE


def _measure(
    net: nn.Module, sequences: Sequences, state: Any, budget: int | None, probe: int
) -> Costs:
    state_bytes = _state_bytes(net, sequences, state)

    def line(long: int, *, is_loop: bool) -> Costs:
        short = max(1, long // 2)
        before, after = (_curve(net, sequences, state, steps) for steps in (short, long))
        if is_loop or len(before) != len(after):
            before, after = (curve.max(keepdims=True) for curve in (before, after))
        step = (after - before) / max(1, long - short)
        margin = 1.0 if len(before) > 1 else MARGIN_OF_A_LOOP
        return Costs(after - step * long, margin * step, state_bytes)

    costs = line(min(probe, sequences.T), is_loop=False)
    if len(costs.fixed) > 1:
        return costs
    fits = PROBE_OF_A_LOOP if budget is None else min(PROBE_OF_A_LOOP, costs.steps(budget))
    single = int(_curve(net, sequences, state, 1).max())  # the same for every budget
    return line(min(max(PROBE, fits), sequences.T), is_loop=True)._replace(single=single)


_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict[Any, Costs]] = weakref.WeakKeyDictionary()


def _kind(tensors: list[Tensor]) -> Any:
    return tuple((t.shape, t.dtype, t.device, t.requires_grad) for t in tensors)


def copies_of_gradients(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of each .grad there is, of which `backward` holds a copy while it works."""
    grads = [tensor.grad for tensor in tensors if tensor.grad is not None]
    return sum(grad.numel() * grad.element_size() for grad in grads)


class Tally(Bystander):
    """Counts the bytes of the tensors made while it is on: `curve` has how many after each.

    And what a call of the kernel has besides, with as many threads as it may come to use.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.curve: list[int] = []
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; count the storages that it made."""
        for tensor in _operands((args, kwargs)):
            self.seen.add(tensor.untyped_storage())
        made = func(*args, **(kwargs or {}))
        for tensor in _operands(made):
            storage = tensor.untyped_storage()
            if storage not in self.seen:
                self.seen.add(storage)
                size = storage.nbytes() + BYTES_BESIDES_NUMBERS
                self.live += size
                self.curve.append(self.live)
                weakref.finalize(storage, self._free, size).atexit = False
        return made

    def note_kernel_memory(self, size: int) -> None:
        """Count what a call of the kernel had besides tensors, and has given back."""
        self.curve.append(self.live + size)

    def _free(self, size: int) -> None:
        self.live -= size


def _operands(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors that an operation takes or gives, which lie in tuples, lists and dicts.

    A state's may lie in any tree: `_tensors`, which takes longer.
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _operands(part)
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from _operands(part)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _curve(
    net: nn.Module, sequences: Sequences, state: Any, steps: int
) -> Float64[np.ndarray, " moments"]:
    """Return the bytes in use as a pass forward and back goes on; .grad and the like stay."""
    quiet = reading(None)  # a probe is no gradient for Ω
    with torch.random.fork_rng(), unsynchronised(net), quiet, torch.enable_grad(), Tally() as tally:
        part = sequences.part(0, steps)
        leaves = as_leaves(state, wanted=True)
        ends = pytree.tree_leaves(without_graph(net, part, leaves))
        arriving = [torch.ones_like(end) if isinstance(end, Tensor) else None for end in ends]
        run = with_graph(net, part, leaves, arriving, 1.0)
        asked = [t for t in _tensors((part.x, leaves, *net.parameters())) if t.requires_grad]
        if run.roots and asked:
            torch.autograd.grad(run.roots, asked, run.root_grads, allow_unused=True)
    return np.array(tally.curve, dtype=np.float64)


def _state_bytes(net: nn.Module, sequences: Sequences, state: Any) -> int:
    """Return what holding a state takes, with that of the random numbers if it uses any."""
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        after = without_graph(net, sequences.part(0, 1), state)
        drawn = torch.get_rng_state()
    size = sum(t.numel() * t.element_size() for t in _tensors(after))
    return max(1, size + (0 if torch.equal(before, drawn) else drawn.numel()))
