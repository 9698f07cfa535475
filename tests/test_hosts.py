"""bptt.accelerate inside other people's programs: the same numbers, update by update.

Each is skipped where its package is missing; docs/hosts.md says how to run them, and how fast they
are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bptt
from tests.hosts import HOSTS, Host, Sizes


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("host", "layer"),
    [
        pytest.param(host, layer, id=f"{host.package}-{layer}")
        for host in HOSTS
        for layer in host.layers
    ],
)
def test_the_same_numbers_for_fifty_updates(host: Host, layer: str) -> None:
    if not host.is_here:
        pytest.skip(f"{host.package} is not installed")
    layers: list[nn.Module] = []

    def accelerate(model: nn.Module) -> None:
        bptt.accelerate(model)
        layers.extend(m for m in model.modules() if isinstance(m, bptt.RNN | bptt.GRU | bptt.LSTM))

    found = []
    for use in (lambda model: None, accelerate):
        torch.manual_seed(0)
        found.append(host.run(layer, Sizes(), use))
    theirs, ours = found
    assert layers
    assert len(ours) == len(theirs) >= Sizes().updates
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
