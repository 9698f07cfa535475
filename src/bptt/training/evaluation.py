"""How good a network is on held-out batches, under teacher forcing and with every unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.gradient.exact.chunks import call
from bptt.gradient.sequences import Sequences, device_of
from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.model.state import Regime
from bptt.training.batches import Batch, Batches
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


@torch.no_grad()
def mean_score(net: Network, batches: Batches, measure: str) -> float:
    """Return a criterion's measure, its mean over all scored steps."""
    total, count = 0.0, 0
    with every_unit(net):
        for each in batches.first_epoch():
            batch = each.of(net)
            scores = _scores(net, batch, measure)[batch.unscored :]
            total += float(scores.sum(dtype=torch.float64))
            count += scores.numel()
    return total / count


def _scores(net: Network, batch: Batch, measure: str) -> Tensor:
    """Return the measure at every step, (T, B)."""
    out = net(batch.y, x=batch.x, lengths=batch.lengths)
    if measure == "wrong":
        wrong: Tensor = out.outputs.argmax(-1) != batch.y
        return wrong.double()
    if measure == "squared error":
        off: Tensor = net.likelihood.mean(out.outputs) - batch.y
        return off.square().mean(-1)
    assert out.nll is not None
    nll: Tensor = out.nll
    return nll
