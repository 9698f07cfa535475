"""A piece of the data that a network was not trained on, to look at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from bptt.data.batches import Batch, Batches
from bptt.model.network import Network


class Sample(NamedTuple):
    """Held-out data to look at: y, x, lengths and the losses' weights, as `backward` takes them."""

    y: Shaped[Tensor, "T B *y"]
    x: Shaped[Tensor, "T B *x"] | None = None
    lengths: Int[Tensor, " B"] | None = None
    loss_weights: Float[Tensor, "T B"] | None = None

    def of(self, net: Network) -> Sample:
        """Return the same on a network's device, and its real numbers in the network's dtype."""
        y, x, *_ = Batch(self.y, self.x, None, True).of(net)
        return self._replace(y=y, x=x)


def held_out(batches: Batches, steps: int, sequences: int) -> Sample:
    """Return the first steps of the validation data, or of whole sequences the first.

    sequences: how many there are at most. Where losses have weights, there are as many more steps
    as it takes for each sequence to have one. Of steps that only bring the state up to the data at
    most as many are read as there are losses.
    """
    first = batches.get(0, 0)
    if first.loss_weights is not None:  # the steps that count may be the last ones
        first = batches.get(0, max(0, len(batches) - 2))  # long ones; the last may be few
        assert first.loss_weights is not None
        steps = max(steps, 1 + int((first.loss_weights > 0).int().argmax(0).max()))
    several, unscored = [first], first.unscored
    while sum(len(b.y) for b in several) - unscored < steps and len(several) < len(batches):
        following = batches.get(0, len(several))
        if following.is_start:  # other sequences
            break
        several.append(following)
        unscored += following.unscored
    start = unscored - min(unscored, steps // 2)
    shown = slice(start, start + steps), slice(sequences)
    y = torch.cat([b.y for b in several])[shown]
    x = None if first.x is None else torch.cat([b.x for b in several if b.x is not None])[shown]
    lengths = None if first.lengths is None else first.lengths[:sequences].clamp(max=len(y))
    if first.loss_weights is not None:
        return Sample(y, x, lengths, first.loss_weights[shown])
    if unscored == 0:
        return Sample(y, x, lengths)
    weights = torch.ones(y.shape[:2])
    weights[: unscored - start] = 0
    return Sample(y, x, lengths, weights)
