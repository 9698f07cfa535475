"""How good a network is on held-out batches, under teacher forcing and with every unit."""

from __future__ import annotations

import torch
from torch import Tensor

from bptt.model.dropout import every_unit
from bptt.model.network import Network
from bptt.training.batches import Batch, Batches


@torch.no_grad()
def evaluate(net: Network, batches: Batches) -> float:
    """Return the mean NLL of all batches, in nats per step."""
    state, total = None, 0.0
    with every_unit(net):
        for i in range(len(batches)):
            batch = batches.get(0, i).of(net)
            start = None if batch.is_start else state
            out = net(batch.y, x=batch.x, state=start, lengths=batch.lengths)
            assert out.nll is not None
            total += float(out.nll[batch.unscored :].sum(dtype=torch.float64))
            state = out.state
    return total / batches.steps


@torch.no_grad()
def mean_score(net: Network, batches: Batches, measure: str) -> float:
    """Return a criterion's measure, its mean over all scored steps."""
    total, count = 0.0, 0
    with every_unit(net):
        for i in range(len(batches)):
            batch = batches.get(0, i).of(net)
            each = _scores(net, batch, measure)[batch.unscored :]
            total += float(each.sum(dtype=torch.float64))
            count += each.numel()
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
