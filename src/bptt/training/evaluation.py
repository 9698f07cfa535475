"""How good a network is on held-out batches, under teacher forcing and with every unit."""

from __future__ import annotations

import torch
from torch import nn

from bptt.data.batches import Batches
from bptt.errors import BpttError
from bptt.gradient.exact.chunks import call
from bptt.gradient.sequences import Sequences, device_of
from bptt.model.dropout import every_unit
from bptt.model.state import Regime
from bptt.training.ranks import Ranks


@torch.no_grad()
def evaluate(net: nn.Module, batches: Batches, ranks: Ranks | None = None) -> float:
    """Return the mean NLL of all batches, in nats per step, each step with its weight.

    Of several ranks each runs its part, its columns or the batches that it has, and all return the
    mean of the whole.
    """
    ranks = ranks or Ranks()
    state, total, steps = None, 0.0, 0.0
    with every_unit(net):
        for each in batches.first_epoch():
            batch = ranks.part_of(each).of(net)
            if batch.B == 0:
                continue
            regime = Regime(batch.lengths, batch.resets)
            sequences = Sequences.checked(batch.y, batch.x, regime, batch.weights, device_of(net))
            part = sequences.part(0, sequences.T)
            _, nll, state = call(net, part, None if batch.is_start else state)
            if part.weights is not None:
                nll = nll.masked_fill(part.weights == 0, 0) * part.weights
            total += float(nll.sum(dtype=torch.float64))
            steps += sequences.total_weight()
    total, steps = ranks.meet(total, steps)
    if not steps > 0:
        raise BpttError("no step to validate on has a target; expected some with a weight above 0")
    return total / steps
