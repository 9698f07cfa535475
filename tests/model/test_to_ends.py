"""Layers of torch's kinds with ends and resets, against torch's, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bptt
from tests.oracles import FLOAT64

T, B, I, H = 9, 4, 3, 5  # noqa: E741
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "projected": lambda *sizes, **more: nn.LSTM(*sizes, proj_size=2, **more),
}


def one_by_one(
    layer: nn.Module, x: Tensor, lengths: Tensor, resets: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return what torch's layer gives of each sequence, called anew at every reset."""
    outs, lasts = [], []
    for b in range(B):
        n, state, rows = int(lengths[b]), None, []
        for t in range(n):
            if t == 0 or resets[t, b]:
                state = None
            out, state = layer(x[t : t + 1, b], state)
            rows.append(out)
        outs.append(torch.cat(rows))
        lasts.append(state if isinstance(state, tuple) else (state,))
    last = [torch.stack(parts, 1) for parts in zip(*lasts, strict=True)]
    return nn.utils.rnn.pad_sequence(outs), last


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_ends_and_resets(kind: str, batch_first: bool, layers: int) -> None:
    torch.manual_seed(0)
    theirs = LAYERS[kind](I, H, layers).double()
    ours = bptt.accelerate(LAYERS[kind](I, H, layers, batch_first=batch_first).double())
    ours.load_state_dict(theirs.state_dict())
    x, lengths = torch.randn(T, B, I).double().requires_grad_(), torch.tensor([9, 5, 1, 7])
    resets = torch.rand(T, B) < 0.3
    expected, expected_last = one_by_one(theirs, x, lengths, resets)
    turned = (x.transpose(0, 1), resets.t()) if batch_first else (x, resets)
    out, last = ours(turned[0], lengths=lengths, resets=turned[1])
    out = out.transpose(0, 1) if batch_first else out
    last = last if isinstance(last, tuple) else (last,)
    torch.testing.assert_close(out, expected, **FLOAT64)
    torch.testing.assert_close(list(last), expected_last, **FLOAT64)
    seeds = [torch.randn_like(part) for part in (expected, *expected_last)]
    found = torch.autograd.grad((out, *last), [x, *ours.parameters()], seeds)
    wanted = torch.autograd.grad((expected, *expected_last), [x, *theirs.parameters()], seeds)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **FLOAT64)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_both_directions_and_one_sequence(kind: str) -> None:
    torch.manual_seed(0)
    layer = bptt.accelerate(LAYERS[kind](I, H, bidirectional=True).double())
    x = torch.randn(T, B, I).double()
    lengths = torch.tensor([9, 5, 1, 7])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    torch.testing.assert_close(layer(x, lengths=lengths)[0], expected, **FLOAT64)
    resets = torch.zeros(T, dtype=torch.bool)
    resets[4] = True
    out, _ = layer(x[:, 0], resets=resets)
    torch.testing.assert_close(
        out[4:, : out.shape[1] // 2], layer(x[4:, 0])[0][:, : out.shape[1] // 2]
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"resets": torch.zeros(T + 1, B)}, "resets has shape"),
        ({"resets": 3}, "resets is a int"),
        ({"lengths": torch.tensor([T + 1] * B)}, "lengths are"),
        ({"lengths": torch.ones(B)}, "lengths are"),
        ({"lengths": torch.tensor([1])}, "lengths has shape"),
    ],
)
def test_bad_ends_and_resets(options: dict[str, object], reason: str) -> None:
    with pytest.raises(bptt.BpttError, match=reason):
        bptt.GRU(I, H)(torch.randn(T, B, I), **options)


def test_layers_are_torchs_again() -> None:
    model = nn.ModuleDict({name: make(I, H) for name, make in LAYERS.items()})
    del model["projected"]  # of which torch warns that it is slow
    before = {name: type(layer) for name, layer in model.items()}
    assert bptt.unaccelerate(bptt.accelerate(model)) is model
    assert {name: type(layer) for name, layer in model.items()} == before
    x = torch.randn(T, B, I)
    for layer in model.values():
        torch.testing.assert_close(bptt.accelerate(layer)(x)[0], bptt.unaccelerate(layer)(x)[0])


def test_watch_sees_resets() -> None:
    layer, x = bptt.GRU(I, H), torch.randn(T, B, I)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[6] = True
    with bptt.watch(layer) as flows:
        layer(x, resets=resets)[0][-1].sum().backward()
    norms = flows["model"].norms
    assert norms[-1, 2] > 0
    assert norms[-1, 3] == 0  # nothing reaches back over the reset
