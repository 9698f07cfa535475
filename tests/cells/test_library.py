"""Every cell that has a name: its loop, its gradient, and all that is made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.cells.registry import CELLS
from bptt.gradient.analysis import fixed_points
from bptt.gradient.analysis.chain import chain_of
from bptt.gradient.analysis.lags import whole as gradient_of
from bptt.gradient.sequences import Sequences
from bptt.model.state import Regime
from tests.oracles import FLOAT64

I, H = 3, 5  # noqa: E741 (the equations' name)
NAMES = list(CELLS)
CLOSE = {"rtol": 1e-6, "atol": 1e-10}  # a normalisation of what is nearly 0 makes rounding large


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def layers(name: str) -> bptt.Recurrent:
    return bptt.Recurrent([CELLS[name](I, H), CELLS[name](H, H)]).double()


def by_hand(
    layer: bptt.Recurrent, x: Tensor, lengths: Tensor, resets: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return what a loop of the cells' own steps gives, one sequence and one step at a time."""
    T, B = x.shape[:2]
    outs, lasts = [], []
    for b in range(B):
        rows = []
        states = [tuple(x.new_zeros(1, n) for n in cell.state_sizes) for cell in layer.cells]
        for t in range(int(lengths[b])):
            row = x[t, b : b + 1]
            for k, cell in enumerate(layer.cells):
                before = states[k]
                if resets[t, b]:
                    before = tuple(torch.zeros_like(part) for part in before)
                biases = [getattr(cell, bias) for bias in cell.biases]
                moved = cell.step(nn.functional.linear(row, cell.weight_ih, sum(biases)), *before)
                states[k] = moved if isinstance(moved, tuple) else (moved,)
                row = states[k][0]
            rows.append(row)
        rows += [torch.zeros_like(states[-1][0])] * (T - len(rows))
        outs.append(torch.cat(rows))
        lasts.append(states)
    count = len(layer.cells[0].state_sizes)
    last = [
        torch.stack([torch.cat([one[k][j] for one in lasts]) for k in range(len(layer.cells))])
        for j in range(count)
    ]
    return torch.stack(outs, 1), tuple(last)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [1, 6])
def test_a_layer_is_its_step_again_and_again(name: str, T: int) -> None:
    layer, x = layers(name), torch.randn(T, 3, I).double().requires_grad_()
    lengths = torch.tensor([T, max(1, T - 2), 1])
    resets = torch.rand(T, 3) < 0.3
    every, last = layer(x, lengths=lengths, resets=resets)
    last = last if isinstance(last, tuple) else (last,)
    expected, expected_last = by_hand(layer, x, lengths, resets)
    torch.testing.assert_close(every, expected, **FLOAT64)
    torch.testing.assert_close(last, expected_last, **FLOAT64)
    weights = [x, *(p for p in layer.parameters() if p.requires_grad)]
    seeds = [torch.randn_like(part) for part in (every, *last)]
    found = torch.autograd.grad((every, *last), weights, seeds, allow_unused=True)
    wanted = torch.autograd.grad((expected, *expected_last), weights, seeds, allow_unused=True)
    for one, other, weight in zip(found, wanted, weights, strict=True):
        zero = torch.zeros_like(weight)
        torch.testing.assert_close(
            zero if one is None else one, zero if other is None else other, **FLOAT64
        )


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_natively(name: str) -> None:
    explanation = bptt.explain(layers(name))
    assert all(layer.is_native for layer in explanation.layers), explanation


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_it_has_every_instrument(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_points, "DESCENT", 30)  # of 300: that it runs is enough here
    net = bptt.Network(bptt.Categorical(4), cell=name, hidden=H, layers=2).double()
    y = torch.randint(4, (12, 2))
    bptt.backward(net, y, reduction="sum")
    whole = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    run = chain_of(net, Sequences.checked(y, None, Regime(), None, y.device), None)
    for flat, grad in gradient_of(run).gradient.items():
        torch.testing.assert_close(grad, getattr(net.recurrent, flat).grad, **CLOSE)
    net.zero_grad()
    bptt.backward(net, y, window=4, stride=4)
    net.zero_grad()
    with pytest.raises(bptt.BpttError, match="expected at least") as refused:
        bptt.backward(net, y, memory=1)
    least = int(re.search(r"at least ([\d,]+)", str(refused.value))[1].replace(",", ""))
    bptt.backward(net, y, reduction="sum", memory=least)
    for n, grad in whole.items():
        torch.testing.assert_close(net.get_parameter(n).grad, grad, **CLOSE)
    assert bptt.jacobians(net, y[:, :1]).matrices.shape[-1] == 2 * H * sum(
        size // H for size in net.recurrent.state_sizes
    )
    assert net.generate(5, prompt=y).shape == (5, 2)
    bptt.fixed_points(net, torch.zeros(2, 2 * sum(net.recurrent.state_sizes)).double())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_it_is_made_again_from_its_config(name: str) -> None:
    net = bptt.Network(bptt.Gaussian(1), inputs=2, cell=name, hidden=H)
    again = bptt.Network.from_config(json.loads(json.dumps(net.config())))
    again.load_state_dict(net.state_dict())
    y, x = torch.randn(9, 2, 1), torch.randn(9, 2, 2)
    torch.testing.assert_close(again(y, x=x).nll, net(y, x=x).nll, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_watch_sees_through_it(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, I), layers(name).float())
    with bptt.watch(model) as flows:
        model(torch.randn(8, 2, 2))[0].square().sum().backward()
    assert flows["1"].norms.shape == (8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_at_a_time_is_the_layer(name: str) -> None:
    cell, x = CELLS[name](I, H), torch.randn(5, 2, I)
    state, single, rows = None, None, []
    for now in x:
        state, single = cell(now, state), cell(now[0], single)
        rows.append(state if isinstance(state, Tensor) else state[0])
    every, last = bptt.Recurrent(cell)(x)
    torch.testing.assert_close(torch.stack(rows), every)
    ends = (last,) if isinstance(last, Tensor) else last
    steps = (state,) if isinstance(state, Tensor) else state
    for end, step in zip(ends, steps, strict=True):
        torch.testing.assert_close(step, end[0])
    one = single if isinstance(single, Tensor) else single[0]
    torch.testing.assert_close(one, every[-1, 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_it_goes_on(name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 20)
    data = bptt.read_text(text)
    net = bptt.Network(data.likelihood, cell=name, hidden=H)
    settings = bptt.Settings(max_updates=2, window=10, batch=2)
    bptt.fit(net, data, settings, out=tmp_path / "run")
    again, done = bptt.resume(tmp_path / "run", max_updates=4)
    assert done.updates == 4
    assert again.generate(3).shape == (3, 1)


# Noise in the state.


def noisy(sigma: float = 0.3, **options: float) -> bptt.cells.CTRNN:
    return bptt.cells.CTRNN(I, H, alpha=0.5, sigma=sigma, **options).double()


def test_noise_is_drawn_for_every_step_from_the_seed_while_training():
    cell, x = noisy(), torch.randn(20, 4, I).double()
    layer = bptt.Recurrent(cell)
    torch.manual_seed(1)
    output, _ = layer(x)
    torch.manual_seed(1)
    drawn = torch.randn_like(torch.empty(20, 4, H).double())
    h = torch.zeros(4, H).double()
    for t in range(20):
        p = nn.functional.linear(x[t], cell.weight_ih, cell.bias_ih) + 2 * 0.3 * drawn[t]
        h = 0.5 * h + 0.5 * torch.tanh(p + h @ cell.weight_hh.T)
        torch.testing.assert_close(output[t], h)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert not torch.equal(layer.train()(x)[0], layer(x)[0])


def test_a_single_step_has_noise_too():
    cell, x = noisy(), torch.randn(20000, I).double()
    with torch.no_grad():
        spread = (torch.atanh(2 * cell(x)) - torch.atanh(2 * cell.eval()(x))).std()
    assert float(spread) == pytest.approx(0.6, rel=0.05)


@pytest.mark.parametrize("memory", [None, "400kB"])
def test_the_gradient_is_that_of_the_noise_that_was_drawn(memory):
    net = bptt.Network(
        bptt.Gaussian(2), cell=lambda i, h: bptt.cells.CTRNN(i, h, sigma=0.5), hidden=6, layers=2
    ).double()
    y, W = torch.randn(2000, 2, 2).double(), net.recurrent.cells[0].weight_hh
    direction, losses = torch.randn_like(W), []

    def run() -> float:
        torch.manual_seed(3)
        net.zero_grad()
        return float(bptt.backward(net, y, memory=memory).loss)

    assert memory is None or bptt.plan(net, *y.shape[:2], memory=memory).chunks > 1
    assert run() == run()
    slope = float((W.grad * direction).sum())
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            W.add_(direction, alpha=step)
        losses.append(run())
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5)


def test_what_noise_does_not_go_with_is_refused():
    make = lambda i, h: bptt.cells.CTRNN(i, h, sigma=0.5)  # noqa: E731
    net, y = bptt.Network(bptt.Gaussian(1), cell=make, hidden=4), torch.randn(12, 2, 1)
    with pytest.raises(bptt.BpttError, match="forcing is below 1 for a cell with noise"):
        net(y, forcing=0.5)
    with pytest.raises(bptt.BpttError, match="stride is 2 with a CTRNN that draws noise"):
        bptt.backward(net, y, window=4, stride=2)
    net.eval()
    bptt.backward(net, y, window=4, stride=2)
    assert net(y, forcing=0.5).nll.shape == (12, 2)
    for options in ({"sigma": -1.0}, {"sigma": float("nan")}, {"sigma": 0.1, "alpha": 0.0}):
        with pytest.raises(bptt.BpttError, match="sigma is"):
            bptt.cells.CTRNN(I, H, **options)


def test_instruments_look_at_a_network_without_its_noise():
    make = lambda i, h: bptt.cells.CTRNN(i, h, sigma=0.5)  # noqa: E731
    net, y = bptt.Network(bptt.Gaussian(1), cell=make, hidden=4), torch.randn(12, 2, 1)
    assert bptt.gradient_flow(net, y).growth == bptt.gradient_flow(net.eval(), y).growth
    assert net.config()["cell"]["sigma"] == 0.5
    assert bptt.Network.from_config(net.config()).recurrent.cells[0].noise == pytest.approx(
        0.5 * 10**0.5
    )


def test_watch_says_that_it_cannot_repeat_noise():
    model = nn.Sequential(bptt.Recurrent(noisy()))
    with bptt.watch(model) as flows:
        model(torch.randn(9, 2, I).double())[0].sum().backward()
    with pytest.raises(bptt.BpttError, match="or cells without noise"):
        flows["0"].growth  # noqa: B018 (asking is what raises)
