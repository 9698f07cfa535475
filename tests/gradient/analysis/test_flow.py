from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.gradient.analysis import lags as lag_module
from bptt.gradient.analysis.chain import chain_of
from bptt.gradient.analysis.flow import flow_of
from bptt.gradient.analysis.lags import Sums, lags, whole
from bptt.gradient.sequences import Sequences
from bptt.model.hidden import parts
from bptt.model.state import Regime
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, make
from tests.oracles import FLOAT64

T, B = 5, 3
WAYS = ["plain", "weights", "lengths", "resets", "mean", "mean with resets", "sample"]
CASES = [(*looped, *rest) for looped, *rest in pairs(RECURRENT_CELLS, WAYS[:-1], [1, 2])]


def setting(way: str, recurrence: str, cell: str, layers: int = 1, with_x: bool = True):
    """A network, its data, how it is run, and the weights of its losses."""
    torch.manual_seed(3)
    net, y, x = make(recurrence, cell, T, B, with_x, layers=layers)
    how: dict[str, object] = {}
    weights = None
    if way == "weights":
        weights = torch.rand(T, B).double()
        weights[1] = 0
        weights[3:, 1] = 0
    if way == "lengths":
        how["lengths"] = torch.tensor([5, 2, 4])
    if "resets" in way:
        how["resets"] = torch.rand(T, B) < 0.3
    if "mean" in way:
        how |= {"forcing": torch.rand(T, B) < 0.4, "feedback": "mean"}
    return net, y, x, how, weights


def chain(net, y, x, how, weights, state=None):
    sequences = Sequences.checked(y, x, Regime(**how), weights, torch.device("cpu"))
    return chain_of(net, sequences, state)


def part(values, start, stop):
    return None if values is None else values[start:stop]


def norms_one_by_one(net, y, x, how, weights) -> Tensor:
    """‖∂Lⱼ/∂h_{j−lag}‖ by autograd: the run is cut after every step, and goes on from a leaf."""
    found = torch.full((T, T), math.nan).double()
    regime = Regime(**how)
    weights = torch.ones(T, B).double() if weights is None else weights
    alive = torch.arange(T).unsqueeze(1) < how.get("lengths", torch.full((B,), T))
    weights = weights * alive
    is_mean = how.get("feedback") == "mean"
    for k in range(T):
        options = regime.part(0, k + 1).options()
        before = net(y[: k + 1], x=part(x, 0, k + 1), **options)
        leaves = [h.detach().clone().requires_grad_() for h in parts(before.state.hidden)]
        leaves = leaves or [before.hidden[-1:].detach().clone().requires_grad_()]
        top = leaves[0][-1]
        outputs = net.readout(top).unsqueeze(0)
        nll = [net.likelihood.nll(outputs, y[k : k + 1])[0]]
        hidden = before.state.hidden
        if hidden is not None:
            hidden = tuple(leaves) if isinstance(hidden, tuple) else leaves[0]
        own = net.likelihood.mean(outputs)[0] if is_mean else before.state.generated
        if k + 1 < T:
            state = bptt.State(hidden, before.state.y, own)
            options = regime.part(k + 1, T).options()
            nll += list(net(y[k + 1 :], x=part(x, k + 1, T), state=state, **options).nll)
        for j, losses in enumerate(nll, start=k):
            scored = weights[j] != 0
            loss = (losses * weights[j])[scored].sum()
            if not scored.any():
                continue
            grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
            squares = sum((g**2).sum((0, -1)) for g in grads if g is not None)
            squares = squares if isinstance(squares, Tensor) else torch.zeros(B).double()
            found[j, j - k] = (squares[scored].mean()) ** 0.5
    return found


@pytest.mark.parametrize(("recurrence", "cell", "way", "layers"), CASES)
def test_norms_are_autograds_one_loss_and_one_step_at_a_time(recurrence, cell, way, layers):
    net, y, x, how, weights = setting(way, recurrence, cell, layers)
    flow = bptt.gradient_flow(net, y, x=x, loss_weights=weights, **how)
    expected = norms_one_by_one(net, y, x, how, weights)
    torch.testing.assert_close(torch.from_numpy(flow.norms), expected, equal_nan=True, **FLOAT64)


@pytest.mark.parametrize(("recurrence", "cell", "way", "layers"), CASES)
def test_the_lags_below_a_window_sum_to_the_gradient_truncated_to_it(recurrence, cell, way, layers):
    net, y, x, how, weights = setting(way, recurrence, cell, layers)
    trained = {n: p for n, p in net.recurrent.named_parameters() if p.requires_grad}
    run = chain(net, y, x, how, weights)
    sums = Sums(run)
    taken = {one.lag: one for one in lags(run, T - 1)}
    for p in range(1, T + 1):
        if p - 1 in taken:
            one = taken[p - 1]
            sums.add(one.passed, slice(one.first - one.lag, T - one.lag))
        net.zero_grad()
        bptt.backward(net, y, x=x, window=p, stride=1, reduction="sum", loss_weights=weights, **how)
        named = sums.gradient()
        assert set(named) == set(trained)
        for name, parameter in trained.items():
            torch.testing.assert_close(named[name], parameter.grad, **FLOAT64)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
def test_the_whole_is_the_exact_gradient_and_the_sum_of_its_lags(recurrence, cell, way):
    net, y, x, how, weights = setting(way, recurrence, cell)
    run = chain(net, y, x, how, weights)
    exact, sums = whole(run).gradient, Sums(run)
    for one in lags(run, T - 1):
        sums.add(one.passed, slice(one.first - one.lag, T - one.lag))
    for name, grad in sums.gradient().items():
        torch.testing.assert_close(grad, exact[name], **FLOAT64)
    if way != "sample":
        bptt.backward(net, y, x=x, reduction="sum", loss_weights=weights, **how)
        for name, grad in exact.items():
            torch.testing.assert_close(grad, net.recurrent.get_parameter(name).grad, **FLOAT64)


def own_copies(net: nn.Module, y, x, how) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Run with a copy of the recurrent weights at every step; return the copies and the losses."""
    regime, state, losses, copies = Regime(**how), None, [], []
    for t in range(T):
        copy = {
            f"recurrent.{n}": p.detach().clone().requires_grad_()
            for n, p in net.recurrent.named_parameters()
            if p.requires_grad
        }
        options = {"state": state, **regime.part(t, t + 1).options()}
        out = torch.func.functional_call(
            net, copy, (y[t : t + 1],), {"x": part(x, t, t + 1), **options}
        )
        state = out.state
        losses.append(out.nll[0])
        copies.append(copy)
    return copies, torch.stack(losses)


@pytest.mark.parametrize(
    ("recurrence", "cell", "way", "layers"), [case for case in CASES if "with" not in case[2]]
)
def test_both_summations_of_the_textbook(recurrence, cell, way, layers):
    net, y, x, how, weights = setting(way, recurrence, cell, layers)
    flow = bptt.gradient_flow(net, y, x=x, loss_weights=weights, **how)
    copies, losses = own_copies(net, y, x, how)
    losses = losses if weights is None else losses * weights
    every = [p for copy in copies for p in copy.values()]

    def norms_of_copies(loss: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of each copy's gradient, and of their sum."""
        grads = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g for p, g in zip(every, grads, strict=True)
        ]
        flat = torch.cat([g.flatten() for g in filled])
        rows = flat.view(T, -1)
        return rows.norm(dim=1), rows.sum(0).norm()

    by_use, _ = norms_of_copies(losses.sum())
    torch.testing.assert_close(torch.from_numpy(flow.by_use), by_use, **FLOAT64)
    by_loss = [norms_of_copies(loss)[1] for loss in losses.sum(1)]
    torch.testing.assert_close(torch.from_numpy(flow.by_loss), torch.stack(by_loss), **FLOAT64)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_losses_taken_in_groups_add_the_same(cell, B, monkeypatch):
    net, y, x = make("both", cell, 41, B)
    once = bptt.gradient_flow(net, y, x=x)
    monkeypatch.setattr(lag_module, "MOST_BYTES", 1)
    each = bptt.gradient_flow(net, y, x=x)
    np.testing.assert_allclose(each.by_loss, once.by_loss, rtol=1e-12)
    apart = []
    for j in (0, 15, 16, 31, 40):
        weights = torch.zeros(41, B).double()
        weights[j] = 1
        apart.append(bptt.gradient_flow(net, y, x=x, loss_weights=weights).by_loss[j])
    np.testing.assert_allclose(apart, once.by_loss[[0, 15, 16, 31, 40]], rtol=1e-12)


def test_errors_and_cosines_are_those_of_truncated_gradients():
    net, y, x = make("both", T=12)
    flow = bptt.gradient_flow(net, y, x=x)

    def gradient(**how) -> Tensor:
        net.zero_grad()
        bptt.backward(net, y, x=x, reduction="sum", **how)
        trained = [p for p in net.recurrent.parameters() if p.requires_grad]
        return torch.cat([p.grad.flatten() for p in trained])

    exact = gradient()
    for p in range(1, 13):
        cut = gradient(window=p, stride=1)
        assert flow.truncation_error[p] == pytest.approx(
            float((cut - exact).norm() / exact.norm()), abs=1e-10
        )
        cosine = torch.nn.functional.cosine_similarity(cut, exact, dim=0)
        assert flow.cosine[p] == pytest.approx(float(cosine), abs=1e-10)
    assert flow.truncation_error[0] == 1
    for tolerance in (0.5, 0.05, 1e-3):
        within = [bool((flow.truncation_error[p:] <= tolerance).all()) for p in range(1, 13)]
        assert flow.horizon(tolerance) == within.index(True) + 1


@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
@pytest.mark.parametrize("with_x", [False, True])
def test_sums_stand_for_the_gradient_where_they_are_its_numbers(recurrence, cell, with_x):
    net, y, x, how, weights = setting("plain", recurrence, cell, 2, with_x)
    run = chain(net, y, x, how, weights)
    by_sums = flow_of(run, T - 1)
    assert run.are_apart
    run.__dict__["are_apart"] = False
    by_gradients = flow_of(run, T - 1)
    np.testing.assert_allclose(by_sums.truncation_error, by_gradients.truncation_error, atol=1e-9)
    np.testing.assert_allclose(by_sums.cosine, by_gradients.cosine, atol=1e-9)


def test_a_small_max_lag_does_not_flatter():
    net, y, x = make("hidden", T=20)
    whole_flow = bptt.gradient_flow(net, y, x=x)
    short = bptt.gradient_flow(net, y, x=x, max_lag=4)
    np.testing.assert_allclose(short.norms, whole_flow.norms[:, :5], atol=1e-12)
    np.testing.assert_allclose(short.truncation_error, whole_flow.truncation_error[:6], atol=1e-12)
    np.testing.assert_allclose(short.by_use, whole_flow.by_use, atol=1e-12)
    assert short.horizon(1e-12) is None
    assert whole_flow.horizon(1e-12) is not None


def linear(factor: float, T: int = 60, B: int = 5) -> tuple[bptt.Network, Tensor, Tensor]:
    """A relu network whose units stay above 0, so that W = factor · I is all that acts."""
    net = bptt.Network(bptt.Gaussian(2), inputs=1, hidden=3, recurrence="hidden", cell="relu")
    net = net.double()
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(factor * torch.eye(3).double())
        net.recurrent.weight_ih_l0.fill_(1.0)
    return net, torch.randn(T, B, 2).double(), torch.rand(T, B, 1).double() + 0.1


@pytest.mark.parametrize(
    ("factor", "window", "verdict"),
    [
        (0.9, None, "vanishing"),
        (0.9, 20, "stable"),
        (1.1, None, "exploding"),
        (1.0, None, "stable"),
        (1.1, 20, "stable"),
    ],
)
def test_growth_and_verdict_of_a_linear_network(factor, window, verdict):
    net, y, x = linear(factor)
    flow = bptt.gradient_flow(net, y, x=x, window=window)
    assert flow.growth == pytest.approx(factor, abs=1e-9)
    assert flow.growth_interval == pytest.approx((factor, factor), abs=1e-9)
    assert flow.verdict == verdict


def test_means_over_losses_and_the_slope_between_them():
    net, y, x = make("hidden", T=12, B=1)
    flow = bptt.gradient_flow(net, y, x=x)
    for lag in (0, 1, 11):
        norms = flow.norms[lag:, lag]
        assert flow.by_lag[lag] == pytest.approx(np.sqrt((norms**2).mean()))
        assert flow.typical_by_lag[lag] == pytest.approx(np.exp(np.log(norms).mean()))
    kept = flow.typical_by_lag > 1e-6 * flow.typical_by_lag.max()
    assert kept.all()
    lag, logs, within = np.arange(12), np.log(flow.norms), [0.0, 0.0]
    for j in range(12):
        apart = lag[: j + 1] - lag[: j + 1].mean()
        within[0] += (apart * logs[j, : j + 1]).sum()
        within[1] += (apart**2).sum()
    assert flow.growth == pytest.approx(np.exp(within[0] / within[1]))


@pytest.mark.parametrize("B", [1, 6])
def test_the_interval_holds_the_growth_and_is_not_a_point(B):
    torch.manual_seed(1)
    net, y, x = make("hidden", T=40, B=B)
    flow = bptt.gradient_flow(net, y, x=x)
    low, high = flow.growth_interval
    assert low < flow.growth < high < 1


def test_teacher_forced_output_recurrence_has_no_path_through_time():
    net, y, x = make("output", T=9)
    flow = bptt.gradient_flow(net, y, x=x)
    assert flow.verdict == "no path through time"
    assert np.nanmax(flow.norms[:, 1:]) == 0
    assert flow.horizon(1e-12) == 1
    closed = bptt.gradient_flow(net, y, x=x, forcing=0.0, feedback="mean")
    assert closed.verdict != "no path through time"
    assert np.nanmin(closed.norms[:, 1]) > 0


def test_one_step_is_no_time():
    net, y, x = make("hidden", T=1)
    flow = bptt.gradient_flow(net, y, x=x)
    assert flow.norms.shape == (1, 1)
    assert math.isnan(flow.growth)
    assert (flow.verdict, flow.horizon()) == ("no path through time", 1)


def test_relu_units_that_are_dead_pass_nothing():
    net, y, x = make("hidden", "relu")
    torch.nn.init.constant_(net.recurrent.bias_ih_l0, -100.0)
    flow = bptt.gradient_flow(net, y, x=x)
    assert (flow.by_use == 0).all()
    assert (flow.truncation_error == 0).all()
    assert flow.horizon() == 1
    assert math.isnan(flow.growth)


def test_the_model_is_left_as_it_was():
    net, y, x = make("both", "gru")
    net.train()
    net.readout.weight.grad = torch.ones_like(net.readout.weight)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    bptt.gradient_flow(net, y, x=x)
    assert net.training
    assert (net.readout.weight.grad == 1).all()
    assert net.recurrent.weight_hh_l0.grad is None
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_only_trained_weights_count():
    net, y, x = make("both", T=12)
    net.recurrent.weight_ih_l0.requires_grad_(False)
    flow = bptt.gradient_flow(net, y, x=x)
    errors = []
    for p in (3, 12):
        net.zero_grad()
        bptt.backward(net, y, x=x, window=p, stride=1)
        grads = (net.recurrent.weight_hh_l0.grad, net.recurrent.bias_ih_l0.grad)
        errors.append(torch.cat([g.flatten() for g in grads]))
    error = (errors[0] - errors[1]).norm() / errors[1].norm()
    assert flow.truncation_error[3] == pytest.approx(float(error), abs=1e-10)


def test_a_float32_flow_that_underflows_is_zero_and_not_slow_noise():
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(5), hidden=8)
    with torch.no_grad():
        net.recurrent.weight_hh_l0.mul_(0.1)
    flow = bptt.gradient_flow(net, torch.randint(5, (80, 2)))
    positive = flow.by_lag[flow.by_lag > 0]
    assert positive.min() >= 1e-31
    assert flow.by_lag[-1] == 0
    assert flow.verdict == "vanishing"
    assert flow.truncation_error[-1] < 1e-5


def test_a_state_and_numpy_data():
    net, y, x = make("both", T=10)
    out = net(y[:4], x=x[:4])
    state = bptt.State(out.state.hidden.detach(), out.state.y)
    weights = torch.ones(10, B).double()
    weights[:4] = 0
    whole_flow = bptt.gradient_flow(net, y, x=x, loss_weights=weights)
    rest = bptt.gradient_flow(net, y[4:].numpy(), x=x[4:].numpy(), state=state)
    known = ~np.isnan(rest.norms)
    np.testing.assert_allclose(whole_flow.norms[4:, :6][known], rest.norms[known], atol=1e-12)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"max_lag": 7}, "max_lag is 7; expected at most T - 1 = 6"),
        ({"max_lag": -1}, "max_lag"),
        ({"window": 0}, "window"),
        ({"lengths": torch.tensor([9, 1, 1])}, "lengths"),
        ({"forcing": 1.5}, "forcing"),
    ],
)
def test_bad_arguments(how, words):
    net, y, x = make("both")
    with pytest.raises(bptt.BpttError, match=words):
        bptt.gradient_flow(net, y, x=x, **how)


def test_a_network_with_nan_is_refused():
    net, y, x = make("hidden")
    with torch.no_grad():
        net.recurrent.weight_hh_l0[0, 0] = math.nan
    with pytest.raises(bptt.BpttError, match="not finite"):
        bptt.gradient_flow(net, y, x=x)


def test_other_models_are_sent_to_watch():
    with pytest.raises(bptt.BpttError, match="watch looks"):
        bptt.gradient_flow(nn.RNN(2, 2), torch.zeros(3, 1))


def test_too_many_lags_for_the_memory_says_how_many_would_fit(monkeypatch):
    monkeypatch.setattr("bptt.gradient.analysis.flow.memory_here", lambda: 16 * 7 * 3)
    net, y, x = make("both")
    with pytest.raises(bptt.BpttError, match="max_lag of at most 2"):
        bptt.gradient_flow(net, y, x=x)
    assert bptt.gradient_flow(net, y, x=x, max_lag=2).max_lag == 2


def test_a_tolerance_below_zero():
    net, y, x = make("both")
    with pytest.raises(bptt.BpttError, match="tolerance"):
        bptt.gradient_flow(net, y, x=x).horizon(-0.1)


def test_flow_of_a_chain_needs_no_network():
    net, y, x, how, weights = setting("plain", "both", "tanh")
    flow = flow_of(chain(net, y, x, how, weights), 3)
    np.testing.assert_array_equal(flow.norms, bptt.gradient_flow(net, y, x=x, max_lag=3).norms)
