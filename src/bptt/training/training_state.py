"""What decides how a training goes on: into a checkpoint, and out of it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bptt.data.batches import Batch
from bptt.errors import BpttError
from bptt.model.network import Network
from bptt.training.optimizers import Descent
from bptt.training.packing import pack, unpack
from bptt.training.runs.plain_values import as_dataclass
from bptt.training.runs.run import under
from bptt.training.runs.weights import weights_once
from bptt.training.updates import Progress

OPTIMIZER, CARRIED = "optimizer", "carried"
"""The notes of what is packed, beside those of Progress."""


@dataclass
class TrainingState:
    """Weights, optimizer, schedule, how far it is, and the state that the next update starts from.

    carried: of this rank's sequences; None where the next update starts from a fresh one.
    """

    net: nn.Module
    descent: Descent
    progress: Progress
    carried: Any = None

    def saved(self, carried: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return it as named tensors, on the CPU, and as plain values.

        carried: that of all sequences, of which this may have a part.
        """
        optimizer, plan = pack(self.descent.state(), "the optimizer")
        if isinstance(self.net, Network):
            leaves = enumerate(pytree.tree_leaves(carried))
            state = {str(i): leaf for i, leaf in leaves if isinstance(leaf, Tensor)}
            structure = None
        else:
            state, structure = pack(carried, f"the state of {type(self.net).__name__}")
        parts = {"network": weights_once(self.net), OPTIMIZER: optimizer, CARRIED: state}
        tensors = {
            f"{part}.{name}": t.cpu() for part, all_ in parts.items() for name, t in all_.items()
        }
        return tensors, {**asdict(self.progress), OPTIMIZER: plan, CARRIED: structure}

    def load_progress(self, notes: dict[str, Any], source: str) -> None:
        """Put back how far it is."""
        notes = {name: value for name, value in notes.items() if name not in (OPTIMIZER, CARRIED)}
        self.progress = as_dataclass(Progress, notes, source)
        self.progress.require(source)

    def load_optimizer(
        self, tensors: dict[str, Tensor], notes: dict[str, Any], source: str
    ) -> None:
        """Put back the optimizer and the schedule."""
        state = unpack(under(OPTIMIZER, tensors), notes.get(OPTIMIZER), f"{source}, optimizer,")
        self.descent.load(state, source)

    def load_carried(
        self, tensors: dict[str, Tensor], notes: dict[str, Any], following: Batch, source: str
    ) -> Any:
        """Return the state that the next update, of a batch, starts from, of all its sequences."""
        parts = under(CARRIED, tensors)
        if following.is_start:
            return None
        if isinstance(self.net, Network):
            return _carried(self.net, parts, following, source)
        return unpack(parts, notes.get(CARRIED), f"{source}, state,")

    def carry_to(self, device: torch.device) -> None:
        """Put the state that the next update starts from on a device."""
        self.carried = pytree.tree_map_only(Tensor, lambda part: part.to(device), self.carried)


def _carried(net: Network, tensors: dict[str, Tensor], following: Batch, source: str) -> Any:
    """Return a network's state, or raise BpttError if it is not of one."""
    B = following.y.shape[1]
    # Its last output is a sample, like y, or a mean; or there is none, as in a fresh state.
    mean = net.readout.weight.new_empty(B, net.likelihood.encoding.width)
    fresh = net.fresh_state(B)
    leaves, structure = pytree.tree_flatten(fresh)
    possible = [[leaf] for leaf in leaves[:-1]] + [[None, fresh.y, mean]]
    carried = [tensors.get(str(i)) for i in range(len(leaves))]
    for tensor, examples in zip(carried, possible, strict=True):
        if not any(_is_like(tensor, example) for example in examples):
            raise BpttError(f"{source} has no state that fits its run; is it of another run?")
    return pytree.tree_unflatten(carried, structure)


def _is_like(tensor: Tensor | None, example: Tensor | None) -> bool:
    """Return whether a tensor has an example's shape and dtype, and is finite; or both are None."""
    if tensor is None or example is None:
        return tensor is example
    same = (tensor.shape, tensor.dtype) == (example.shape, example.dtype)
    return same and bool(tensor.isfinite().all())
