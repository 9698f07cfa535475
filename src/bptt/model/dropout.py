"""Variational dropout: units that are left out of all steps of a sequence alike.

A unit that is left out is one whose column is 0 in every matrix that its h enters: W, the skips',
the U of the layer above, and V; the others' are divided by 1 − p (Gal and Ghahramani 2016, section
4: dropping rows or columns of the weight matrices, the same at every step). The draw is one for all
sequences of a call, so that it is the weights that are dropped, and every way to run the network,
in chunks, in windows, or closed through its own output, has the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bptt.model.network import Network


@contextmanager
def units_dropped(net: nn.Module) -> Iterator[None]:
    """Draw which units are left out, of every Network inside that is training, for a with block.

    Inside another such block that one's draw stays.
    """
    from bptt.model.network import Network  # noqa: PLC0415 (which imports this)

    drawn = [module for module in net.modules() if isinstance(module, Network) and _is_due(module)]
    for network in drawn:
        _draw(network)
    try:
        yield
    finally:
        for network in drawn:
            del network.recurrent.dropped
            network.dropped = None


@contextmanager
def every_unit(net: nn.Module) -> Iterator[None]:
    """Put a model in the mode in which nothing is left out, for a with block."""
    mode = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(mode)


def _is_due(net: Network) -> bool:
    return net.training and net.loop.dropout > 0 and net.dropped is None


def _draw(net: Network) -> None:
    p, layer = net.loop.dropout, net.recurrent
    names, dropped = {name for name, _ in layer.named_parameters()}, {}
    for k in range(layer.num_layers):
        like = net.readout.weight
        kept = torch.rand(layer.hidden_size, dtype=like.dtype, device=like.device) >= p
        scale: Tensor = kept.to(like.dtype) / (1 - p)
        loops = (f"weight_hh_l{k}", *(f"weight_skip{d}_l{k}" for d in net.loop.skips))
        entered = names.intersection([*loops, f"weight_ih_l{k + 1}"])
        dropped.update(dict.fromkeys(entered, scale))
        net.dropped = scale  # of the top layer, which comes last
    layer.dropped = dropped
