"""RNN, GRU and LSTM against torch.nn's, and accelerate."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import bptt
from bptt.kernel import binding
from bptt.model import layers
from tests.oracles import FLOAT64

PAIRS = {
    "tanh": (bptt.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (bptt.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "gru": (bptt.GRU, nn.GRU, {}),
    "lstm": (bptt.LSTM, nn.LSTM, {}),
}
I, H, T, B = 3, 5, 7, 4  # noqa: E741


def pair(cell: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """Return our layer and torch's, of the same seed."""
    ours, theirs, more = PAIRS[cell]
    made = []
    for layer in (ours, theirs):
        torch.manual_seed(1)
        made.append(layer(I, H, **more, **options).double())
    return made[0], made[1]


def tensors(result: object) -> list[Tensor]:
    """Return all tensors in a layer's result."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data, result.batch_sizes]
    return [tensor for part in result for tensor in tensors(part)]


def assert_same(ours: nn.Module, theirs: nn.Module, *inputs: object) -> None:
    """Values, and the gradients of input and parameters, agree."""
    found = []
    for layer in (ours, theirs):
        layer.zero_grad()
        given = copy.deepcopy(inputs)
        leaves = [t.requires_grad_() for t in tensors(given) if t.is_floating_point()]
        results = tensors(layer(*given))
        floats = [t for t in results if t.is_floating_point()]
        sum((t * torch.arange(t.numel()).view_as(t).sin()).sum() for t in floats).backward()
        found.append(
            [*results, *(leaf.grad for leaf in leaves), *(p.grad for p in layer.parameters())]
        )
    assert len(found[0]) >= 5
    torch.testing.assert_close(found[0], found[1], **FLOAT64)


@pytest.mark.parametrize("cell", PAIRS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_torch(cell: str, bidirectional: bool, num_layers: int) -> None:
    for bias, batch_first in itertools.product((True, False), repeat=2):
        ours, theirs = pair(
            cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            batch_first=batch_first,
        )
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, its)  # the same initialisation, too
        x = torch.randn(B, T, I).double() if batch_first else torch.randn(T, B, I).double()
        h0 = torch.randn(num_layers * (1 + bidirectional), B, H).double()
        hx = (h0, h0.cos()) if cell == "lstm" else h0
        assert_same(ours, theirs, x)
        assert_same(ours, theirs, x, hx)
        single = tuple(h[:, 0] for h in hx) if cell == "lstm" else hx[:, 0]
        assert_same(ours, theirs, x[0] if batch_first else x[:, 0], single)


@pytest.mark.parametrize("cell", PAIRS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences(cell: str, bidirectional: bool) -> None:
    ours, theirs = pair(cell, num_layers=2, bidirectional=bidirectional)
    sequences = [torch.randn(length, I).double() for length in (2, 7, 1, 4)]
    h0 = torch.randn(2 * (1 + bidirectional), 4, H).double()
    hx = (h0, h0.cos()) if cell == "lstm" else h0
    packed = pack_sequence(sequences, enforce_sorted=False)
    for sequence in (packed, pack_sequence(sorted(sequences, key=len, reverse=True))):
        floats = [layer(sequence, hx) for layer in (ours, theirs)]
        torch.testing.assert_close(tensors(floats[0]), tensors(floats[1]), **FLOAT64)
        for out, _ in floats:
            out.data.square().sum().backward()
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad, **FLOAT64)


@pytest.mark.parametrize("cell", PAIRS)
def test_dropout_between_layers(cell: str) -> None:
    ours, theirs = pair(cell, num_layers=2, dropout=0.5)
    x = torch.randn(T, B, I).double()
    torch.manual_seed(3)
    first = ours(x)[0]
    assert not torch.equal(ours(x)[0], first)
    torch.manual_seed(3)
    assert torch.equal(ours(x)[0], first)
    assert_same(ours.eval(), theirs.eval(), x)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_runs_on_the_kernel(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(cell)
    called = []
    original = binding.call
    monkeypatch.setattr(binding, "call", lambda *a: called.append(a[0]) or original(*a))
    ours(torch.randn(T, B, I).double())
    assert called == ["loop_forward"]


@pytest.mark.parametrize(
    ("cell", "shape", "by_torch"),
    [("LSTM", (7, 1, 3), True), ("LSTM", (2, 3, 3), False), ("GRU", (7, 1, 3), False)],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_layer_serves_where_it_is_the_faster_one(
    cell: str,
    shape: tuple[int, ...],
    by_torch: bool,
    batch_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "LARGE_LSTM", 7)
    theirs = getattr(nn, cell)(3, 8, batch_first=batch_first)
    ours, calls = copy.deepcopy(theirs), []
    bptt.accelerate(nn.ModuleList([ours]))
    forward = type(theirs).forward
    monkeypatch.setattr(
        type(theirs), "forward", lambda *given: (calls.append(given), forward(*given))[1]
    )
    x = torch.randn(shape)
    x = x.transpose(0, 1) if batch_first else x
    torch.testing.assert_close(ours(x), forward(theirs, x))
    assert bool(calls) == by_torch


@pytest.mark.parametrize("cell", PAIRS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 3, "dropout": 0.5}])
@pytest.mark.parametrize("B", [0, 1, 5])
def test_a_single_step_without_a_graph(
    cell: str,
    bidirectional: bool,
    batch_first: bool,
    options: dict[str, object],
    B: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pair(cell, bidirectional=bidirectional, batch_first=batch_first, **options)
    ours.eval(), theirs.eval()
    x = torch.randn((B, 1, I) if batch_first else (1, B, I)).double()
    h = torch.randn(ours.num_layers * (1 + bidirectional), B, H).double()
    state = (h, h.cos()) if cell == "lstm" else h
    monkeypatch.setattr(ours, "run", None)  # neither in our loop,
    monkeypatch.setattr(ours, "_by_torch", None)  # nor by torch's layer
    with torch.no_grad():
        for hx in (None, state):
            made, expected = ours(x, hx), theirs(x, hx)
            torch.testing.assert_close(made, expected, **FLOAT64)
            places = {t.data_ptr() for t in tensors(made)}
            assert B == 0 or len(places) == len(tensors(made))  # no tensor is another's view
        if B > 0:
            monkeypatch.undo()
            batched = torch.func.vmap(lambda x: ours(x, state)[0])(torch.stack([x, -x]))
            torch.testing.assert_close(batched[1], theirs(-x, state)[0], **FLOAT64)


def test_a_single_step_that_is_not_torchs() -> None:
    ours, theirs = pair("lstm", num_layers=2, proj_size=2)
    x, wrong = torch.randn(1, B, I).double(), torch.randn(1, B + 1, H).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), **FLOAT64)
        ours, theirs = pair("gru", num_layers=2, dropout=0.5)
        h = torch.stack([ours(x)[0] for _ in range(9)])
        assert not torch.equal(h[0], h[1])  # dropout between layers
        for given in ((x, wrong), (x[..., 1:],), (x.float(),), (x, x)):
            with pytest.raises((RuntimeError, ValueError)) as its:
                theirs(*given)
            with pytest.raises(type(its.value)):
                ours(*given)


class Tagged(Tensor):
    """A subclass of Tensor, whose numbers may lie anywhere."""


@pytest.mark.parametrize("cell", PAIRS)
def test_a_single_step_of_weights_that_are_not_plain_is_torchs(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair(cell)
    for layer in (ours, theirs):
        weight = nn.Parameter(layer.weight_hh_l0.detach().as_subclass(Tagged))
        layer.weight_hh_l0 = weight
    called, forward = [], ours._by_torch
    monkeypatch.setattr(ours, "_by_torch", lambda *given: called.append(1) or forward(*given))
    x = torch.randn(1, B, I).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], **FLOAT64)
    assert called == [1]


def test_complaints_are_torchs() -> None:
    ours, theirs = pair("tanh")
    for inputs in ((torch.zeros(T, B, I + 1).double(),), (torch.zeros(2, 2, 2, 2),)):
        with pytest.raises((RuntimeError, ValueError)) as its:
            theirs(*inputs)
        with pytest.raises(type(its.value)):
            ours(*inputs)
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        ours(torch.zeros(T, B, I).double(), torch.zeros(1, B + 1, H).double())
    with pytest.raises(bptt.BpttError, match="nonlinearity is 'sigmoid'"):
        bptt.RNN(3, 4, nonlinearity="sigmoid")


class Tagger(nn.Module):
    """A user's model, with recurrent layers at several depths."""

    def __init__(self) -> None:
        super().__init__()
        self.rnns = nn.ModuleList([nn.RNN(I, I, batch_first=True), nn.GRU(I, I, batch_first=True)])
        self.head = nn.Sequential(nn.Linear(I, 2))
        self.lstm = nn.LSTM(I, I, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        for rnn in [*self.rnns, self.lstm]:
            x, _ = rnn(x)
        return self.head(x)


def test_accelerate_changes_the_layers_and_nothing_else() -> None:
    model = Tagger().double()
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain)]
    seen = []
    model.rnns[0].register_forward_hook(lambda *_: seen.append("hook"))
    model.rnns[1].eval()
    parameters = {name: id(p) for name, p in model.named_parameters()}

    assert bptt.accelerate(model) is model

    assert [type(m) for m in (*model.rnns, model.lstm)] == [bptt.RNN, bptt.GRU, bptt.LSTM]
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert (model.rnns[0].training, model.rnns[1].training) == (True, False)
    x = torch.randn(B, T, I).double()
    for _ in range(3):
        for net, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), **FLOAT64)
    assert seen == 3 * ["hook"]
    assert type(bptt.accelerate(nn.RNN(2, 3))) is bptt.RNN


def test_layers_can_be_copied() -> None:
    ours, _ = pair("gru", num_layers=2, bidirectional=True)
    x = torch.randn(T, B, I).double()
    assert torch.equal(copy.deepcopy(ours)(x)[0], ours(x)[0])
