"""torch's fused layers in the place of the kernel: the same numbers for every layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import bptt
from bptt.cells.elman import NONLINEARITIES
from bptt.kernel import binding, fused
from tests.networks import make

T, B, I, H = 7, 4, 3, 5  # noqa: E741 (the equations' name)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
CELLS = {
    "tanh": NONLINEARITIES["tanh"],
    "relu": NONLINEARITIES["relu"],
    "gru": bptt.GRUCell,
    "lstm": bptt.LSTMCell,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """Which of torch's layers are called."""
    seen: list[str] = []

    def note(fused_: fused.Fused, *arguments: object) -> object:
        seen.append(fused_.layer.__name__)
        return run(fused_, *arguments)  # type: ignore[arg-type]

    run = fused.run
    with mock.patch.object(fused, "run", note):
        yield seen


def both_ways(
    layer: bptt.Recurrent, x: Tensor, state: object, **more: Tensor
) -> list[list[Tensor]]:
    """Return outputs and gradients by torch's layers, and by the plain loop."""
    found = []
    for way in ("torch", "plain"):
        leaves = [t for t in (x, *layer.parameters(), *tree_leaves(state)) if t is not None]
        with bptt.kernel.use(way):
            out, last = layer(x, state, **more)
        results = [out, *tree_leaves(last)]
        loss = sum((r * torch.linspace(-1, 1, r.numel()).view(r.shape)).sum() for r in results)
        found.append([*results, *torch.autograd.grad(loss, leaves)])
    return found


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_layout_has_the_numbers_of_the_plain_loop(
    name: str, bias: bool, calls: list[str]
) -> None:
    cells = [CELLS[name](n, H, bias=bias) for n in (I, H)]
    again = [CELLS[name](n, H, bias=bias) for n in (I, 2 * H, I)]
    layers = [
        bptt.Recurrent(cells),
        bptt.Recurrent([again[2]], reverse=[CELLS[name](I, H, bias=bias)]),
    ]
    lengths, resets = torch.tensor([7, 0, 4, 1]), torch.rand(T, B) < 0.4
    for layer, with_state, n, r in itertools.product(
        layers, (False, True), (None, lengths, torch.full((B,), T)), (None, resets)
    ):
        layer.double()
        x = torch.randn(T, B, I).double().requires_grad_()
        depth = layer.num_layers * (1 + layer.bidirectional)
        parts = [torch.randn(depth, B, H).double().requires_grad_() for _ in layer.state_sizes]
        state = (tuple(parts) if len(parts) > 1 else parts[0]) if with_state else None
        by_torch, plain = both_ways(layer, x, state, lengths=n, resets=r)
        torch.testing.assert_close(by_torch, plain, **CLOSE)
    assert len(calls) == 2 * len(layers) * 2 * 3 * 2


@pytest.mark.parametrize("recurrence", ["hidden", "both"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("with_x", [True, False])
def test_a_network(recurrence: str, cell: str, with_x: bool, calls: list[str]) -> None:
    net, y, x = make(recurrence, cell, with_x=with_x or recurrence == "hidden", layers=2)
    found = []
    for way in ("torch", "plain"):
        with bptt.kernel.use(way):
            done = bptt.backward(net, y, x=x, lengths=torch.tensor([7, 3, 1]))
        found.append([done.loss, *[p.grad for p in net.parameters() if p.grad is not None]])
        net.zero_grad()
    torch.testing.assert_close(*found, **CLOSE)
    assert calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_by_torchs_layers(dtype: torch.dtype, calls: list[str]) -> None:
    layer = bptt.Recurrent(bptt.GRUCell(I, H)).to(dtype)
    x, lengths = torch.randn(T, B, I).to(dtype), torch.tensor([7, 3, 2, 1])
    with bptt.kernel.use("torch"):
        out, _ = layer(x, lengths=lengths)
    out.sum().backward()
    assert out.dtype == dtype
    assert calls == ["gru"]
    assert str(bptt.explain(layer)).endswith("computed in float32")  # without being asked
    torch.testing.assert_close(layer(x, lengths=lengths)[0], out, rtol=0.02, atol=0.02)
    assert calls == ["gru"]


def test_it_serves_where_there_is_no_kernel(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(binding, "native", None)
    monkeypatch.setattr(binding, "WHY_NOT_NATIVE", "the test has taken it", raising=False)
    bptt.Recurrent(bptt.LSTMCell(I, H))(torch.randn(T, B, I))
    assert calls == ["lstm"]


def test_transforms_go_by_the_plain_loop(calls: list[str]) -> None:
    layer, x = bptt.Recurrent(bptt.GRUCell(I, H)), torch.randn(T, B, I)
    with bptt.kernel.use("torch"):
        torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))
    assert not calls


class OwnStep(bptt.GRUCell):
    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(p[:, : h.shape[1]] + h)


def test_a_subclass_with_a_step_of_its_own_is_not_taken_for_torchs(calls: list[str]) -> None:
    cell, x = OwnStep(I, H), torch.randn(1, B, I)
    expected = torch.tanh(torch.nn.functional.linear(x[0], cell.weight_ih, cell.bias_ih)[:, :H])
    torch.testing.assert_close(cell(x[0]), expected)
    for way in binding.WAYS:
        with bptt.kernel.use(way):
            torch.testing.assert_close(bptt.Recurrent(cell)(x)[0][0], expected)
    assert not calls


@pytest.mark.parametrize("kind", [bptt.RNN, bptt.GRU, bptt.LSTM])
def test_a_layer_runs_as_it_is_asked_to(kind: type[torch.nn.RNNBase]) -> None:
    layer, x = kind(I, H), torch.randn(T, B, I)
    outs = []
    for way in binding.WAYS:
        with bptt.kernel.use(way), torch.no_grad():
            outs += [layer(x)[0], layer(x[:1])[0]]
    for out in outs[2:]:
        torch.testing.assert_close(out, outs[0][: len(out)])


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(bptt.BpttError, match="way is 'fast'"), bptt.kernel.use("fast"):
        pass
    assert binding.used == "native"
