"""The state that sequences start from, where it is learned."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import bptt
from tests.oracles import FLOAT64

T, B = 12, 3
CELLS = ["tanh", "gru", "lstm", "lem", "mingru"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(cell: str = "tanh", **options: object) -> tuple[bptt.Network, Tensor]:
    options = {"hidden": 4, "layers": 2, "initial": "learned", **options}
    net = bptt.Network(bptt.Gaussian(2), cell=cell, **options).double()
    with torch.no_grad():
        for part in net.recurrent.start:
            part.normal_()
    return net, torch.randn(T, B, 2).double()


def given(net: bptt.Network) -> bptt.State:
    """The state that the network starts from, as one that a caller gives."""
    start = [part.detach().unsqueeze(1).repeat(1, B, 1) for part in net.recurrent.start]
    return bptt.State(tuple(start) if len(start) > 1 else start[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("how", [{}, {"lengths": torch.tensor([12, 5, 0])}, {"forcing": 0.0}])
def test_a_sequence_starts_from_what_was_learned(cell, how):
    net, y = network(cell)
    how = {**how, "feedback": "mean"}
    from_learned, from_given = net(y, **how), net(y, state=given(net), **how)
    torch.testing.assert_close(from_learned.nll, from_given.nll)
    torch.testing.assert_close(from_learned.state, from_given.state)
    assert not torch.allclose(from_learned.nll, bptt.Network.forward(bare(net), y, **how).nll)


def bare(net: bptt.Network) -> bptt.Network:
    """The same network, whose sequences start from zero."""
    other = bptt.Network.from_config({**net.config(), "initial": "zero"}).double()
    other.load_state_dict({k: v for k, v in net.state_dict().items() if ".start." not in k})
    return other


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("how", [{}, {"memory": "200kB"}, {"window": 12, "stride": 3}])
def test_its_gradient_is_that_of_a_state_that_is_given(cell, how):
    net, y = network(cell)
    state = bptt.State(
        bptt.model.hidden.each(lambda part: part.requires_grad_(), given(net).hidden)
    )
    other = copy.deepcopy(net)
    bptt.backward(other, y, state=state)
    bptt.backward(net, y, **how)
    starts = state.hidden if isinstance(state.hidden, tuple) else (state.hidden,)
    for mine, its in zip(net.recurrent.start, starts, strict=True):
        torch.testing.assert_close(mine.grad, its.grad.sum(1), **FLOAT64)
    shared = {n: p.grad for n, p in other.named_parameters() if p.grad is not None}
    for name, parameter in net.named_parameters():
        if name in shared:
            torch.testing.assert_close(parameter.grad, shared[name], **FLOAT64)


def test_it_learns_comes_back_and_goes_on(tmp_path):
    task = bptt.Task.parse("order", 12)
    net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=6, initial="learned")
    bptt.fit(net, task, bptt.Settings(max_updates=4), out=tmp_path / "run")
    assert all(bool(part.any()) for part in net.recurrent.start)
    again = bptt.Run.open(tmp_path / "run").network()
    assert again.initial == "learned"
    for mine, its in zip(again.recurrent.start, net.recurrent.start, strict=True):
        assert torch.equal(mine, its)


def test_free_runs_and_instruments_start_from_it():
    net, y = network("gru")
    options = {"temperature": 0.0, "prompt": y[:3]}
    assert torch.equal(net.generate(5, **options), net.generate(5, state=given(net), **options))
    ahead = net.forecast(4, prompt=y[:3, :1], paths=3)
    assert ahead.mean.shape == (4, 1, 2)
    flows = [bptt.gradient_flow(net, y, state=state) for state in (None, given(net))]
    assert flows[0].growth == pytest.approx(flows[1].growth)


def test_layers_of_cells_have_it_too():
    layer = bptt.Recurrent(bptt.cells.MinGRU(3, 4), initial="learned")
    x = torch.randn(T, B, 3)
    with torch.no_grad():
        layer.start[0].normal_()
    start = layer.start[0].unsqueeze(1).expand(-1, B, -1)
    torch.testing.assert_close(layer(x), layer(x, start))
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([12, 9, 4]))
    torch.testing.assert_close(layer(packed)[1], layer(packed, start)[1])
    torch.testing.assert_close(layer(x[:, 0])[1], layer(x[:, :1])[1][:, 0])
    layer(x)[0].sum().backward()
    assert layer.start[0].grad.any()
    with bptt.watch(nn.Sequential(layer)) as flows:
        flows.model(x)[0].sum().backward()
    assert flows["0"].growth > 0


def test_what_it_does_not_go_with_is_refused():
    net, y = network()
    resets = torch.zeros(T, B, dtype=torch.bool)
    with pytest.raises(bptt.BpttError, match='resets are given with initial "learned"'):
        net(y, resets=resets)
    layer = bptt.Recurrent(bptt.cells.MinGRU(3, 4), initial="learned")
    with pytest.raises(bptt.BpttError, match='resets are given with initial "learned"'):
        layer(torch.randn(T, B, 3), resets=resets)
    with pytest.raises(bptt.BpttError, match='with recurrence "output"'):
        network(recurrence="output")
    with pytest.raises(bptt.BpttError, match="initial is 'learnt'"):
        network(initial="learnt")
