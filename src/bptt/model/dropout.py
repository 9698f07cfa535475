"""Variational dropout: units that are left out of all steps of a sequence alike.

A unit that is left out is one whose column is 0 in every matrix that its h enters: W, the skips',
the U of the layer above, and V; the others' are divided by 1 − p (Gal and Ghahramani 2016, section
4: dropping rows or columns of the weight matrices, the same at every step). The draw is one for all
sequences of a call, so that it is the weights that are dropped, and every way to run the network,
in chunks, in windows, or closed through its own output, has the same.

The draw is handed to each call (see `bptt.model.entry`), and nothing is set on the network: several
threads can run it at once, each with its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from bptt.model.entry import Units
from bptt.model.loop_options import LoopOptions
from bptt.model.stack import Stack

_DRAWN: ContextVar[Mapping[nn.Module, Units] | None] = ContextVar("drawn", default=None)
"""What `units_dropped` drew for each Network, in this thread."""


class DropsUnits(nn.Module):
    """A network that may leave out units.

    recurrence, recurrent: as a Network has them. loop: with the probability, and the skips.
    """

    recurrence: str
    recurrent: Stack
    loop: LoopOptions

    @property
    def drops_units(self) -> bool:
        """Whether a call leaves out units now."""
        return self.training and self.loop.dropout > 0

    def draw_units(self) -> Units:
        """Draw which ones."""
        p, layer = self.loop.dropout, self.recurrent
        like, layers = next(layer.parameters()), layer.num_layers
        recurrent: dict[str, Tensor] = {}
        for k in range(layers):
            is_there = torch.rand(layer.hidden_size, dtype=like.dtype, device=like.device) >= p
            scale: Tensor = is_there.to(like.dtype) / (1 - p)
            entered = [f"weight_ih_l{k + 1}"] if k + 1 < layers else []
            if self.recurrence != "output":
                entered += [f"weight_hh_l{k}", *(f"weight_skip{d}_l{k}" for d in self.loop.skips)]
            recurrent.update(dict.fromkeys(entered, scale))
        return Units(recurrent, scale)  # the top layer's comes last


@contextmanager
def units_dropped(net: nn.Module) -> Iterator[None]:
    """Draw which units are left out, of every Network inside that is training, for a with block.

    Inside another such block that one's draw stays.
    """
    drawn = dict(_DRAWN.get() or {})
    for module in net.modules():
        if isinstance(module, DropsUnits) and module not in drawn and module.drops_units:
            drawn[module] = module.draw_units()
    before = _DRAWN.set(drawn)
    try:
        yield
    finally:
        _DRAWN.reset(before)


def units_of(net: DropsUnits) -> Units | None:
    """Return which units a call leaves out, as `units_dropped` drew or drawn now; None for none."""
    if not net.drops_units:
        return None
    drawn = _DRAWN.get()
    return net.draw_units() if drawn is None or net not in drawn else drawn[net]


@contextmanager
def every_unit(net: nn.Module) -> Iterator[None]:
    """Put a model in the mode in which nothing is left out, for a with block.

    Each module then goes back to the mode that it had by itself.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
