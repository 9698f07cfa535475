from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import bptt
from bptt.gradient.analysis import fixed_points as module
from bptt.gradient.analysis.fixed_points import StateMap
from bptt.model.hidden import parts
from tests.networks import RECURRENT_CELLS, make

pytestmark = pytest.mark.usefixtures("one_thread")


def flip_flop(T: int, B: int) -> tuple[Tensor, Tensor]:
    """Three channels: rare pulses of ±1, and the sign of the last one (Sussillo and Barak 2013)."""
    x = torch.zeros(T, B, 3)
    pulses = torch.rand(T, B, 3) < 0.15
    x[pulses] = torch.randint(0, 2, (int(pulses.sum()),)) * 2.0 - 1
    x[0] = torch.randint(0, 2, (B, 3)) * 2.0 - 1
    y = x.clone()
    for t in range(1, T):
        y[t] = torch.where(x[t] == 0, y[t - 1], x[t])
    return y, x


@pytest.fixture(scope="module")
def trained() -> tuple[bptt.Network, Tensor]:
    """A tanh network that has learnt the 3-bit flip-flop, and states that it visits."""
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(3, scale="fixed"), inputs=3, hidden=32, recurrence="hidden")
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=5e-3)
    for step in range(400):
        y, x = flip_flop(30, 32)
        optimizer.zero_grad()
        bptt.backward(net, y, x=x)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 400)
        optimizer.step()
    with torch.no_grad():
        y, x = flip_flop(30, 8)
        return net, net(y, x=x).hidden


def test_a_flip_flop_rests_in_eight_places(trained: tuple[bptt.Network, Tensor]):
    net, states = trained
    found = bptt.fixed_points(net, states)
    assert found.stable.sum() == 8
    assert found.stable[:8].all()  # they come first
    assert (found.speed < 1e-12).all()
    outputs = net.readout(torch.from_numpy(found.points[:8]).float()).detach().sign().tolist()
    assert sorted(outputs) == sorted(map(list, itertools.product([-1.0, 1.0], repeat=3)))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("recurrence", "cell"), [pair for pair in RECURRENT_CELLS if pair[0] != "output"]
)
def test_the_step_is_the_networks(recurrence, cell, layers):
    net, y, x = make(recurrence, cell, 1, 1, layers=layers)
    step = StateMap.of(net, x[0, 0], y[0, 0])
    s = torch.randn(5, step.size).double()
    moved = []
    for one in s:
        hidden = one.view(-1, layers, 1, net.recurrent.hidden_size)
        state = bptt.State(tuple(hidden) if len(hidden) > 1 else hidden[0], y[0])
        after = parts(net(y, x=x, state=state).state.hidden)
        moved.append(torch.cat([part.flatten() for part in after]))
    torch.testing.assert_close(step(s), torch.stack(moved), rtol=0, atol=1e-12)


def test_a_linear_network_rests_where_its_equation_says():
    torch.manual_seed(0)
    net, _, _ = make("hidden", "relu")
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(torch.rand(4, 4) * 0.2)
        net.recurrent.bias_ih_l0.copy_(torch.rand(4) + 0.5)
    found = bptt.fixed_points(net, torch.rand(10, 4))
    W, b = (net.recurrent.get_parameter(n).detach() for n in ("weight_hh_l0", "bias_ih_l0"))
    expected = torch.linalg.solve(torch.eye(4).double() - W, b)
    np.testing.assert_allclose(found.points, expected[None], atol=1e-9)
    moduli = np.sort(np.abs(np.linalg.eigvals(W.numpy())))[::-1]
    np.testing.assert_allclose(np.abs(found.eigenvalues[0]), moduli, atol=1e-9)
    assert found.stable.tolist() == [True]


def test_an_unstable_point_between_two_stable_ones():
    net = bptt.Network(bptt.Gaussian(1), hidden=1, recurrence="hidden", inputs=1)
    with torch.no_grad():
        net.recurrent.weight_hh_l0.fill_(2.0)  # h = tanh(2h): at 0 and at ±0.9575
    found = bptt.fixed_points(net, torch.tensor([[-1.0], [0.01], [0.02], [0.9], [-0.3]]))
    np.testing.assert_allclose(sorted(found.points[:, 0]), [-0.95750402, 0, 0.95750402], atol=1e-7)
    assert found.stable.tolist() == [True, True, False]
    assert found.eigenvalues[2, 0] == pytest.approx(2.0)


def test_nothing_rests_where_nothing_can():
    net = bptt.Network(bptt.Gaussian(1), hidden=1, recurrence="hidden", inputs=1, cell="relu")
    with torch.no_grad():
        net.recurrent.weight_hh_l0.fill_(1.0)
        net.recurrent.bias_ih_l0.fill_(1.0)  # h ← h + 1
    found = bptt.fixed_points(net, torch.rand(4, 1))
    assert found.points.shape == (0, 1)
    assert found.stable.shape == (0,)


def test_states_taken_in_groups_come_to_rest_in_the_same_places(monkeypatch):
    net = bptt.Network(bptt.Gaussian(1), hidden=2, recurrence="hidden", inputs=1).double()
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(2 * torch.eye(2))  # three places for each unit
    start = torch.rand(20, 2).double() * 2 - 1
    once = bptt.fixed_points(net, start)
    monkeypatch.setattr(module, "MOST_BYTES", 7 * 2 * 2 * 8)
    grouped = bptt.fixed_points(net, start)
    np.testing.assert_allclose(grouped.points, once.points, atol=1e-12)
    assert once.stable.sum() == 4
    assert (once.speed < 1e-28).all()


def test_a_start_that_overflows_does_not_keep_the_others_from_rest():
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(1), hidden=2, recurrence="hidden", inputs=1, cell="relu")
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(0.5 * torch.eye(2))
        net.recurrent.bias_ih_l0.fill_(1.0)
    start = torch.tensor([[1e200, 1e200], [0, 0]], dtype=torch.float64)
    found = bptt.fixed_points(net, start)
    np.testing.assert_allclose(found.points, [[2.0, 2.0]], atol=1e-9)


@pytest.mark.parametrize(("cell", "layers"), [("gru", 1), ("lstm", 2)])
def test_gated_cells_come_to_rest_where_the_network_stands_still(cell, layers):
    torch.manual_seed(0)
    net, y, x = make("both", cell, 1, 1, layers=layers)
    size = StateMap.of(net, None, None).size
    found = bptt.fixed_points(net, torch.randn(8, size), x=x[0, 0], y=y[0, 0])
    assert found.stable.any()
    hidden = torch.from_numpy(found.points[0]).view(-1, layers, 1, 4)
    state = bptt.State(tuple(hidden) if cell == "lstm" else hidden[0], y[0])
    after = net(y, x=x, state=state).state.hidden
    for was, now in zip(hidden, parts(after), strict=True):
        torch.testing.assert_close(now.detach(), was, rtol=0, atol=1e-12)


def test_a_composition_without_biases_is_not_odd():
    net = bptt.Network(bptt.Gaussian(1), hidden=8, recurrence="hidden", inputs=1)
    values = bptt.composition_profile(net, steps=1, points=50).values[1]
    assert np.abs(values + values[::-1]).max() > 0.01
    straight = bptt.composition_profile(net, steps=0, points=50)
    assert straight.values.shape == (1, 50)
    np.testing.assert_allclose(np.diff(straight.values[0], 2), 0, atol=1e-12)


def test_the_network_is_left_as_it_was():
    net, _, _ = make("hidden", "gru")
    net.train()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    random = torch.get_rng_state()
    bptt.fixed_points(net, torch.zeros(3, 4))
    bptt.composition_profile(net, steps=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_composition_starts_as_a_line_and_goes_on_by_the_step():
    net, _, _ = make("hidden")
    before = torch.get_rng_state()
    found = bptt.composition_profile(net, steps=3, points=50, span=2.0, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.coordinate[[0, -1]].tolist() == [-2.0, 2.0]
    slope = np.diff(found.values[0])
    np.testing.assert_allclose(slope, slope[0])
    drawn = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    line, direction, middle = drawn / drawn.norm(dim=1, keepdim=True)
    h = (torch.from_numpy(found.coordinate)[:, None] * line + middle) * 2
    for values in found.values:
        np.testing.assert_allclose(values, (h @ direction), atol=1e-12)
        h = torch.tanh(net.recurrent.bias_ih_l0 + h @ net.recurrent.weight_hh_l0.T).detach()


def test_bad_arguments():
    net, _, _ = make("hidden")
    start = torch.zeros(2, 4)
    with pytest.raises(bptt.BpttError, match=r"states has shape \(2, 3\); expected .* S = 4"):
        bptt.fixed_points(net, torch.zeros(2, 3))
    with pytest.raises(bptt.BpttError, match="states are not finite"):
        bptt.fixed_points(net, start * math.nan)
    with pytest.raises(bptt.BpttError, match="x has shape"):
        bptt.fixed_points(net, start, x=torch.zeros(2))
    with pytest.raises(bptt.BpttError, match='recurrence is "output"'):
        bptt.fixed_points(make("output")[0], start)
    with pytest.raises(bptt.BpttError, match="got a Linear"):
        bptt.composition_profile(torch.nn.Linear(2, 2), steps=2)
    with pytest.raises(bptt.BpttError, match="steps is -1"):
        bptt.composition_profile(net, steps=-1)
    with pytest.raises(bptt.BpttError, match="span is 0"):
        bptt.composition_profile(net, steps=2, span=0)
    with torch.no_grad():
        net.readout.bias[0] = math.nan
    with pytest.raises(bptt.BpttError, match="weights are not finite"):
        bptt.fixed_points(net, start)
