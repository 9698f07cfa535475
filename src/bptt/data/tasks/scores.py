"""How well a network does a task, by the measure of its criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from bptt.data.batches import Batch, Batches
from bptt.model.dropout import every_unit
from bptt.model.network import Network


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
