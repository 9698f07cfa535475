"""The state that streams go on from: each rank's columns, and all of them in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.data.batches import Batches
from bptt.errors import BpttError
from bptt.gradient.exact.truncation import batch_axes
from bptt.gradient.sequences import Sequences, device_of
from bptt.model.dropout import every_unit
from bptt.model.state import Regime
from bptt.training.ranks import Ranks


class Carried:
    """How a module's state is cut into the columns of ranks, and put together again.

    Raises BpttError of a state that has a part which is not one of each sequence.
    """

    def __init__(self, net: nn.Module, batches: Batches, ranks: Ranks) -> None:
        self.ranks = ranks
        if ranks.is_alone:
            return
        one = batches.at(0).columns(slice(0, 1)).of(net)
        regime = Regime(one.lengths, one.resets)
        with every_unit(net):
            axes = batch_axes(net, Sequences.checked(one.y, one.x, regime, None, device_of(net)))
        if axes is None:
            raise BpttError(
                f"the state of {type(net).__name__} has a part that is not one of each sequence, "
                "and several processes cannot share it; expected tensors with an axis of B, or one "
                "process"
            )
        self.axes = axes

    def part(self, state: Any, B: int) -> Any:
        """Return this rank's columns of a state of B."""
        columns = self.ranks.columns(B)
        if self.ranks.is_alone or state is None:
            return state
        if columns.start == columns.stop:
            return None
        leaves, structure = pytree.tree_flatten(state)
        parts = [
            leaf.narrow(axis, columns.start, columns.stop - columns.start).clone()
            if isinstance(leaf, Tensor)
            else leaf
            for leaf, axis in zip(leaves, self.axes, strict=True)
        ]
        return pytree.tree_unflatten(parts, structure)

    def whole(self, state: Any) -> Any:
        """Return the state of all columns on the first rank; None on the others."""
        if self.ranks.is_alone:
            return state
        leaves = [] if state is None else pytree.tree_leaves(state)
        on_cpu = [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ranks = [leaves for leaves in self.ranks.gather(on_cpu) if leaves]
        if not ranks:
            return None
        joined = [
            torch.cat(parts, axis) if isinstance(parts[0], Tensor) else parts[0]
            for parts, axis in zip(zip(*ranks, strict=True), self.axes, strict=True)
        ]
        return pytree.tree_unflatten(joined, pytree.tree_structure(state))
