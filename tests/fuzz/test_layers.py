"""Random calls of RNN, GRU and LSTM against torch.nn's."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from tests.fuzz.campaign import fuzz
from tests.oracles import FLOAT64

LAYERS = {"tanh": ("RNN", {}), "relu": ("RNN", {"nonlinearity": "relu"}), "gru": ("GRU", {})}
NEAR = {torch.float64: FLOAT64, torch.float32: {"rtol": 1e-4, "atol": 1e-4}}


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, nn.Module]:
    """Return torch.nn's layer and ours, with the same weights."""
    name, more = LAYERS[draw(st.sampled_from(sorted(LAYERS)))]
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        **more,
    }
    sizes = draw(st.integers(1, 9)), draw(st.integers(1, 19))
    theirs, ours = (getattr(library, name)(*sizes, **options) for library in (nn, bptt))
    ours.load_state_dict(theirs.state_dict())
    for parameter, twin in zip(theirs.parameters(), ours.parameters(), strict=True):
        is_frozen = draw(st.integers(0, 9)) == 0
        parameter.requires_grad_(not is_frozen)
        twin.requires_grad_(not is_frozen)
    return theirs, ours


def strided(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """Return the same numbers, laid out in one of several ways."""
    way = draw(st.integers(0, 3))
    if way == 1:
        return tensor.mT.contiguous().mT
    if way == 2:
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if way == 3:
        return torch.cat([tensor, tensor])[len(tensor) :]
    return tensor


@st.composite
def calls(draw: st.DrawFn, layer: nn.Module) -> tuple[Any, Tensor | None]:
    """Return an input of any form, and a state or None."""
    T, B, dtype = draw(st.integers(1, 8)), draw(st.integers(1, 6)), layer.weight_hh_l0.dtype
    form = draw(st.sampled_from(["batch", "batch", "single", "packed"]))
    depth = layer.num_layers * (1 + layer.bidirectional)
    state = None
    if draw(st.booleans()):
        shape = (depth, layer.hidden_size) if form == "single" else (depth, B, layer.hidden_size)
        state = strided(draw, torch.randn(shape, dtype=dtype))
    if form == "single":
        return strided(draw, torch.randn(T, layer.input_size, dtype=dtype)), state
    shape = (B, T) if layer.batch_first else (T, B)
    x = strided(draw, torch.randn(*shape, layer.input_size, dtype=dtype))
    if form == "batch":
        return x, state
    lengths = draw(st.lists(st.integers(1, T), min_size=B, max_size=B))
    packed = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=layer.batch_first, enforce_sorted=False
    )
    return packed, state


def results(layer: nn.Module, inputs: Any, state: Tensor | None) -> list[Tensor]:
    """Return the outputs, and the gradients of all that asks for one."""
    is_packed = isinstance(inputs, PackedSequence)
    rows = (inputs.data if is_packed else inputs).detach().requires_grad_()
    start = None if state is None else state.detach().requires_grad_()
    out, last = layer(inputs._replace(data=rows) if is_packed else rows, start)
    outputs = [out.data if is_packed else out, last]
    loss = sum(((k + 1) * output.square()).sum() for k, output in enumerate(outputs))
    wanted = [t for t in [rows, start, *layer.parameters()] if t is not None and t.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, wanted)]


@fuzz(weight=2)
@given(st.data())
def test_as_torchs(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    theirs, ours = data.draw(layers())
    inputs, state = data.draw(calls(theirs))
    expected, got = results(theirs, inputs, state), results(ours, inputs, state)
    dtype = theirs.weight_hh_l0.dtype
    for mine, its in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, its, **NEAR[dtype])
