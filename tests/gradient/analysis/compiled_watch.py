"""bptt.watch around torch.compile: run by test_watch_modes.py, in its own process."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import bptt
from tests.gradient.analysis.test_watch_modes import Model, data, exact, make, trained


def compiled_model(model: Model, x: Tensor, backend: str) -> None:
    torch.compile(model, backend=backend)(x).backward()


def compiled_before(model: Model, x: Tensor, backend: str) -> None:
    faster = torch.compile(model, backend=backend)
    faster(x)
    faster(x).backward()


def compiled_layer(model: Model, x: Tensor, backend: str) -> None:
    layer = torch.compile(model.rnn, backend=backend)
    model.use(*layer(model.below(x))).backward()


def compiled_step(model: Model, x: Tensor, backend: str) -> None:
    def step(x: Tensor) -> Tensor:
        loss = model(x)
        loss.backward()
        return loss

    torch.compile(step, backend=backend)(x)


def compiled_loss(model: Model, x: Tensor, backend: str) -> None:
    loss = torch.compile(model.use, backend=backend)
    loss(*model.rnn(model.below(x))).backward()


COMPILED = (compiled_model, compiled_before, compiled_layer, compiled_step, compiled_loss)
CASES = [
    *(("nn.GRU", "eager", way) for way in COMPILED),
    *(("nn.GRU", "aot_eager", way) for way in (compiled_model, compiled_loss)),
    *(("nn.LSTM", "eager", way) for way in (compiled_layer, compiled_loss)),
    *(("bptt.RNN", "eager", way) for way in (compiled_model, compiled_layer, compiled_loss)),
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    seen = 0
    for cell, backend, way in CASES:
        torch._dynamo.reset()
        # Holds the gradients, random numbers and buffers against those without a watch.
        flows = trained(make(cell), partial(way, backend=backend), data())
        if way is compiled_loss:  # the layer itself is not compiled
            expected = exact(cell, "out", make(cell), data())
            np.testing.assert_allclose(flows["rnn"].norms, expected, rtol=1e-3, atol=1e-5)
            seen += 1
            continue
        with pytest.raises(bptt.BpttError, match=r"torch\.compile has compiled is not seen"):
            flows["rnn"]
        assert list(flows) == [], way.__name__
    sys.stdout.write(f"{len(CASES)} compiled steps train as they do unwatched, {seen} seen\n")
