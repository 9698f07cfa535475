"""In what precision a network can be looked into and trained on data."""

from __future__ import annotations

import torch

from bptt.errors import BpttError
from bptt.model.network import Network


def require_precision(net: Network, purpose: str) -> None:
    """Raise BpttError unless the network's numbers are precise enough for what is done with them.

    >>> import bptt
    >>> require_precision(bptt.Network(bptt.Categorical(5), hidden=8), "be looked into")
    """
    if net.dtype not in (torch.float32, torch.float64):
        raise BpttError(
            f"the network's weights are {net.dtype}; expected torch.float32 or torch.float64, to "
            f"{purpose}: take copy.deepcopy(net).float(), and real numbers in y and x likewise"
        )
