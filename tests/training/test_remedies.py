from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import bptt
from bptt.data.tasks.task import Task
from bptt.kernel import omega as omega_module
from bptt.kernel import ops
from bptt.kernel.omega import omega_of
from bptt.model.stack import Stack
from bptt.training.remedies import Omega, clip_gradient
from tests.covering import pairs
from tests.networks import flat_gradient, make
from tests.oracles import FLOAT64

T, B = 9, 3


@contextmanager
def layers_seen() -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Note each layer's p, whose gradient is δ, and h."""
    seen, run_layer = {}, Stack.layer

    def run(self, suffix, rows, *others, is_projected, **through):
        p, b = rows, self.input_bias(suffix)
        if not is_projected:
            p = rows @ self.part("weight_ih", suffix).T + (0 if b is None else b)
        h, ends = run_layer(self, suffix, p, *others, is_projected=True, **through)
        p.retain_grad()
        seen[suffix] = p, h.detach()
        return h, ends

    with patch.object(Stack, "layer", run):
        yield seen


def by_autograd(net, y, x, lengths=None) -> dict[str, tuple[float, Tensor]]:
    """Ω and its gradient for each layer's W, with all but the immediate paths cut: step by step."""
    layer, H = net.recurrent, net.recurrent.hidden_size
    found = {}
    for k in range(layer.num_layers):
        with layers_seen() as seen:
            bptt.backward(net, y, x=x, lengths=lengths)
        p, h = seen[f"_l{k}"]
        if p.grad.ndim == 2:  # packed rows: longest first, back into their places
            order = lengths.argsort(descending=True, stable=True)
            places = [(t, b) for t in range(T) for b in order.tolist() if t < int(lengths[b])]
            delta, states = torch.zeros(2, T, B, H).double()
            for row, (t, b) in enumerate(places):
                delta[t, b], states[t, b] = p.grad[row], h[row]
        else:
            delta, states = p.grad, h
        W = layer.get_parameter(f"weight_hh_l{k}").detach().clone().requires_grad_()
        omega = torch.zeros(()).double()
        for t in range(T - 1):
            for b in range(B):
                d, s = delta[t + 1, b], states[t, b]
                if not d.any():
                    continue
                slope = 1 - s**2 if net.cell == "tanh" else (s > 0).double()
                back = (d @ W) * slope
                if back.any():
                    omega = omega + (back.norm() / d.norm() - 1) ** 2
        (gradient,) = torch.autograd.grad(omega, W)
        found[f"_l{k}"] = (float(omega.detach()), gradient)
    net.zero_grad()
    return found


@pytest.mark.parametrize(
    ("way", "recurrence", "cell", "layers", "with_lengths"),
    pairs(["kernel", "plain loop"], ["hidden", "both"], ["tanh", "relu"], [1, 2], [False, True]),
)
def test_omega_adds_its_immediate_gradient(
    monkeypatch, way, recurrence, cell, layers, with_lengths
):
    torch.manual_seed(0)
    if way == "plain loop":
        monkeypatch.setattr(ops, "native", lambda *_: "the plain loop is asked for")
    net, y, x = make(recurrence, cell, T, B, layers=layers)
    lengths = torch.tensor([5, 9, 7]) if with_lengths else None
    expected = by_autograd(net, y, x, lengths)
    bptt.backward(net, y, x=x, lengths=lengths)
    plain = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    with Omega(net, 0.7, sequences=B) as omega:
        bptt.backward(net, y, x=x, lengths=lengths)
    assert omega.value == pytest.approx(sum(value for value, _ in expected.values()) / B)
    assert omega.value > 0
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            continue
        added = parameter.grad - plain[name]
        suffix = name.removeprefix("recurrent.weight_hh")
        wanted = expected[suffix][1] * 0.7 / B if suffix in expected else torch.zeros_like(added)
        torch.testing.assert_close(added, wanted, **FLOAT64)


def test_what_keeps_the_norm_has_no_omega():
    W = torch.linalg.qr(torch.randn(5, 5).double())[0]
    delta, slope = torch.randn(8, 5).double(), torch.ones(8, 5).double()
    assert float(omega_of(delta, delta @ W, slope).omega) == pytest.approx(0, abs=1e-20)
    assert float(omega_of(delta, delta @ W / 2, slope).omega) == pytest.approx(8 * 0.25)


@pytest.mark.parametrize("size", [1e-12, 1e-20, 1e-25])
def test_omega_does_not_depend_on_the_size_of_the_gradient(size):
    torch.manual_seed(0)
    delta, slope, W = torch.randn(8, 5), torch.rand(8, 5), torch.randn(5, 5)
    back = (delta @ W) * slope
    one = omega_of(delta, back, slope)
    tiny = omega_of(delta * size, back * size, slope)
    torch.testing.assert_close(tiny.gradient, one.gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tiny.omega, one.omega, rtol=1e-4, atol=1e-5)


def test_omega_survives_where_no_gradient_comes():
    torch.manual_seed(0)
    delta, slope, W = torch.randn(8, 5), torch.rand(8, 5), torch.randn(5, 5)
    back = (delta @ W) * slope
    for found in (omega_of(delta * 0, back * 0, slope), omega_of(delta, back * 0, slope * 0)):
        assert float(found.omega) == 0
        assert (found.gradient == 0).all()


@pytest.mark.parametrize("cell", ["tanh", "relu"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cut", [{}, {"window": 4}, {"lengths": torch.tensor([9, 1, 6])}])
def test_both_loops_agree_about_resets_and_windows(monkeypatch, cell, layers, cut):
    net, y, x = make("both", cell, T, B, layers=layers)
    resets = torch.rand(T, B) < 0.25
    found = []
    for native in (ops.native, lambda *_: "the plain loop is asked for"):
        monkeypatch.setattr(ops, "native", native)
        net.zero_grad()
        with Omega(net, 2.0, sequences=B) as omega:
            bptt.backward(net, y, x=x, resets=resets, **cut)
        found.append((omega.value, flat_gradient(net)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], **FLOAT64)


@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-24])
def test_the_kernels_omega_does_not_depend_on_the_size_of_the_gradient(size):
    torch.manual_seed(0)
    net = bptt.Network(bptt.Categorical(5), hidden=20)
    y, W = torch.randint(5, (12, B)), net.recurrent.weight_hh_l0
    added = []
    for scale in (1.0, size):
        weights = torch.zeros(12, B)
        weights[-1] = scale
        grads = []
        for omega in (0.0, 1.0):
            net.zero_grad()
            with Omega(net, omega, sequences=B) as found:
                bptt.backward(net, y, loss_weights=weights, reduction="sum")
            grads.append(W.grad.clone())
        added.append((grads[1] - grads[0], found.value))
    torch.testing.assert_close(added[0], added[1], rtol=1e-3, atol=1e-4)


def test_nothing_is_read_after_a_failure():
    net, y, x = make("hidden")

    def fail() -> None:
        with Omega(net, 1.0, sequences=3):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert omega_module.wanted([net.recurrent.weight_hh_l0]) is None
    bptt.backward(net, y, x=x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"cell": "gru"}, 'cell "gru"'),
        ({"recurrence": "output"}, 'recurrence "output"'),
        ({"leak": 0.5, "norm": True}, "omega is given with leak and norm; expected one or the oth"),
    ],
)
def test_omega_where_there_is_none(how, words):
    task = Task.parse("flipflop", 10)
    net = bptt.Network(task.likelihood, inputs=3, hidden=4, **{"recurrence": "hidden", **how})
    with pytest.raises(bptt.BpttError, match=words):
        bptt.fit(net, task, bptt.Settings(omega=1.0, max_updates=1))


def gradients_of_a_fit(**settings: object) -> list[Tensor]:
    """The change of the weights by one step of plain gradient descent, without warm-up."""
    torch.manual_seed(0)
    task = Task.parse("order", 12)
    net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=6, recurrence="hidden")
    before = [p.detach().clone() for p in net.parameters()]
    usual = {"optimizer": "sgd", "max_updates": 1, "learning_rate": 1.0, "clip": math.inf}
    bptt.fit(net, task, bptt.Settings(**{**usual, **settings}))
    return [p.detach() - b for p, b in zip(net.parameters(), before, strict=True)]


def test_values_are_clipped():
    plain, clipped = gradients_of_a_fit(), gradients_of_a_fit(clip_value=0.01)
    rate = max(float((a / b).nan_to_num(0).max()) for a, b in zip(clipped, plain, strict=True))
    assert rate <= 1 + 1e-5
    for a, b in zip(clipped, plain, strict=True):
        torch.testing.assert_close(a, b.clamp(-0.01, 0.01))
    assert any(bool((b.abs() > 0.01).any()) for b in plain)


def test_omega_in_a_fit_changes_w_alone():
    plain, with_omega = gradients_of_a_fit(), gradients_of_a_fit(omega=1.0)
    changed = [not torch.allclose(a, b) for a, b in zip(plain, with_omega, strict=True)]
    assert changed.count(True) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"omega": -1.0}, "omega is -1"),
        ({"omega": math.nan}, "omega"),
        ({"clip_value": 0}, "clip_value"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(bptt.BpttError, match=words):
        bptt.Settings(**settings)


# How weights start.


def network(cell: str = "tanh", hidden: int = 40, **init: object) -> bptt.Network:
    torch.manual_seed(0)
    return bptt.Network(
        bptt.Categorical(3),
        inputs=4,
        hidden=hidden,
        recurrence="hidden",
        cell=cell,
        layers=2,
        init=bptt.Initial(**init),
    )


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
@pytest.mark.parametrize("radius", [None, 0.8])
def test_orthogonal(cell, radius):
    for suffix in ("_l0", "_l1"):
        W = network(cell, radius=radius).recurrent.get_parameter(f"weight_hh{suffix}")
        for gate in W.detach().split(40):
            torch.testing.assert_close(gate.T @ gate, torch.eye(40) * (radius or 1) ** 2)


@torch.no_grad()
def test_identity():
    net = network("relu", W="identity")
    assert torch.equal(net.recurrent.weight_hh_l1, torch.eye(40))
    assert float(net.recurrent.weight_ih_l0.std()) == pytest.approx(0.001, rel=0.2)
    assert float(net.readout.weight.std()) == pytest.approx(0.001, rel=0.2)
    assert not net.readout.bias.any()
    half = network("relu", W="identity", radius=0.5).recurrent.weight_hh_l0
    torch.testing.assert_close(half.detach(), torch.eye(40) / 2)


@torch.no_grad()
def test_gaussian():
    net = network(W="gaussian", std=0.2)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        assert float(net.recurrent.get_parameter(name).std()) == pytest.approx(0.2, rel=0.2)
    assert float(net.readout.weight.std()) == pytest.approx(0.2, rel=0.2)
    assert bptt.spectrum(network(W="gaussian", radius=1.3)).spectral_radius == pytest.approx(
        1.3, rel=1e-4
    )
    for how in ({"W": "gaussian", "std": 0.2}, {"W": "gaussian", "radius": 0.8}, {}):
        found = bptt.spectrum(network(**how)).spectral_radius
        assert found == pytest.approx(bptt.Initial(**how).radius_of(40), rel=0.2)
    start = network(W="gaussian", std=0.05)
    flow = bptt.gradient_flow(start, torch.zeros(5, 1).long(), x=torch.zeros(5, 1, 4))
    assert flow.first_radius == pytest.approx(0.05 * math.sqrt(40))


@torch.no_grad()
def test_forget_bias_keeps_more_of_the_state():
    lstm, gru = network("lstm", forget_bias=1.0), network("gru", forget_bias=2.0)
    assert lstm.recurrent.bias_ih_l1.tolist() == [0.0] * 40 + [1.0] * 40 + [0.0] * 80
    assert gru.recurrent.bias_ih_l0.tolist() == [0.0] * 40 + [2.0] * 40 + [0.0] * 40
    h = torch.randn(2, 1, 40)
    for cell in ("gru", "lstm"):
        kept = []
        for bias in (0.0, 5.0):
            net = network(cell, forget_bias=bias)
            state = bptt.State((h, h) if cell == "lstm" else h)
            after = net(x=torch.zeros(1, 1, 4), state=state).state.hidden
            after = after[1] if cell == "lstm" else after
            kept.append(float((after - h)[0].norm()))
        assert kept[1] < kept[0]


@torch.no_grad()
def test_chrono_gives_times_up_to_the_longest():
    net = network("lstm", hidden=1000, chrono=100, W="gaussian", std=0.1)
    bias = net.recurrent.bias_ih_l0.detach()
    assert torch.equal(bias[:1000], -bias[1000:2000])
    times = bias[1000:2000].exp()
    assert float(times.min()) >= 1
    assert float(times.max()) <= 99
    assert float(times.mean()) == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize(
    ("cell", "init", "words"),
    [
        ("tanh", {"W": "random"}, "the first W is 'random'"),
        ("gru", {"W": "identity"}, 'identity with cell "gru"'),
        ("tanh", {"forget_bias": 1.0}, 'forget_bias is given with cell "tanh"'),
        ("relu", {"chrono": 50}, 'chrono is given with cell "relu"'),
        ("lstm", {"chrono": 50, "forget_bias": 1.0}, "expected one of them"),
        ("lstm", {"chrono": 2}, "chrono is 2"),
        ("tanh", {"radius": 0}, "radius is 0"),
        ("tanh", {"std": -1}, "std is -1"),
        ("lstm", {"forget_bias": math.nan}, "forget_bias is nan"),
    ],
)
def test_starts_that_contradict_the_cell_or_each_other(cell, init, words):
    with pytest.raises(bptt.BpttError, match=words):
        network(cell, **init)


def test_output_recurrence_has_no_w_to_start():
    with pytest.raises(bptt.BpttError, match='recurrence "output"'):
        bptt.Network(bptt.Categorical(3), recurrence="output", init="identity")


def test_the_start_is_written_down_with_the_network():
    net = network("lstm", chrono=30, radius=0.9)
    again = bptt.Network.from_config(net.config())
    assert again.init == net.init
    old = {key: value for key, value in net.config().items() if key != "init"}
    assert bptt.Network.from_config(old).init == bptt.Initial()


def test_clipping_is_torchs_also_where_squares_overflow():
    grads = [torch.randn(3, 4), torch.randn(5)]
    for size in (1e-3, 1.0, 1e25):
        mine, theirs = ([torch.zeros_like(g).requires_grad_() for g in grads] for _ in range(2))
        for parameters in (mine, theirs):
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad * size
        found = clip_gradient(mine, 0.5)
        exact = torch.cat([g.double().flatten() for g in grads]).norm() * size
        assert found == pytest.approx(float(exact), rel=1e-6)
        clipped = torch.cat([p.grad.flatten() for p in mine])
        assert float(clipped.norm()) == pytest.approx(min(0.5, float(exact)), rel=1e-5)
        if size < 1e20:
            torch.nn.utils.clip_grad_norm_(theirs, 0.5)
            torch.testing.assert_close(mine[0].grad, theirs[0].grad, rtol=1e-5, atol=1e-7)


def test_clipping_each_part_comes_first():
    parameter = torch.zeros(2).requires_grad_()
    parameter.grad = torch.tensor([3.0, -0.1])
    assert clip_gradient([parameter], 10.0, 0.5) == pytest.approx(math.hypot(0.5, 0.1))
    assert parameter.grad.tolist() == pytest.approx([0.5, -0.1])
    parameter.grad = torch.tensor([math.inf, 1.0])
    assert clip_gradient([parameter], 1.0) == math.inf
    assert parameter.grad.tolist() == [math.inf, 1.0]  # for whoever asks to see


@pytest.mark.parametrize("other", ["kernel", "plain loop"])
def test_omega_with_dropout_a_budget_and_windows_without_a_step(monkeypatch, other):
    net, y, x = make("both", "tanh", 240, B)
    whole = bptt.Network.from_config({**net.config(), "dropout": 0.5}).double()
    whole.load_state_dict(net.state_dict())
    found = []
    for way in ("kernel", other):
        if way == "plain loop":
            monkeypatch.setattr(ops, "native", lambda *_: "the plain loop is asked for")
        torch.manual_seed(1)
        whole.zero_grad()
        with Omega(whole, 2.0, sequences=B) as omega:
            bptt.backward(whole, y, x=x)
        found.append((omega.value, flat_gradient(whole)))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], **FLOAT64)
    plain = []
    for budget in (None, "10MB"):
        net.zero_grad()
        with Omega(net, 2.0, sequences=B) as omega:
            bptt.backward(net, y, x=x, memory=budget)
        plain.append((omega.value, flat_gradient(net)))
    assert plain[0][0] == pytest.approx(plain[1][0])
    torch.testing.assert_close(plain[0][1], plain[1][1], **FLOAT64)
    with Omega(net, 2.0, sequences=B) as omega:
        bptt.backward(net, y, x=x, lengths=torch.tensor([4, 3, 0]), window=4)
    assert omega.value > 0


@pytest.mark.parametrize("way", ["kernel", "plain loop"])
def test_second_derivatives_are_refused(monkeypatch, way):
    net = bptt.Network(bptt.Categorical(5), hidden=4).double()
    if way == "plain loop":
        monkeypatch.setattr(ops, "native", lambda *_: "the plain loop is asked for")
    y = torch.randint(5, (T, B))

    def twice() -> None:
        with Omega(net, 1.0, sequences=B):
            W = net.recurrent.weight_hh_l0
            torch.autograd.grad(net(y).nll.sum(), W, create_graph=True)

    with pytest.raises(bptt.BpttError, match=r"omega .*create_graph=True"):
        twice()
    assert omega_module.wanted([net.recurrent.weight_hh_l0]) is None


def test_threads_that_share_a_network_have_each_its_own_omega():
    net, y, x = make("hidden")

    def omega_of_a_thread(weight: float | None) -> float | None:
        if weight is None:
            net(y, x=x).nll.sum().backward()
            return None
        with Omega(net, weight, sequences=B) as omega:
            net(y, x=x).nll.sum().backward()
        return omega.value

    alone = omega_of_a_thread(1.0)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(omega_of_a_thread, [1.0, None, 2.0] * 20))
    assert found == [pytest.approx(alone), None, pytest.approx(alone)] * 20


def test_omega_is_of_the_layers_of_its_network_alone():
    net, y, x = make("hidden")
    other = bptt.RNN(x.shape[-1], x.shape[-1]).double()
    values, grads = [], []
    for weight in (0.0, 3.0):
        other.zero_grad()
        with Omega(net, weight, sequences=B) as omega:
            net(y, x=other(x)[0]).nll.sum().backward()
        values.append(omega.value)
        grads.append(other.weight_hh_l0.grad)
    with Omega(net, 3.0, sequences=B) as omega:
        net(y, x=other(x)[0].detach()).nll.sum().backward()
    assert values == [pytest.approx(omega.value)] * 2
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    "how", [{}, {"forcing": 0.0, "feedback": "mean"}, {"recurrent": "is frozen, and its input"}]
)
def test_where_nothing_was_read_omega_says_so(how):
    net = bptt.Network(bptt.Gaussian(2), hidden=4)
    y = torch.randn(T, B, 2)

    def run() -> None:
        with Omega(net, 1.0, sequences=B):
            if "feedback" in how:
                bptt.backward(net, y, **how)
            elif how:
                net.recurrent.requires_grad_(False)
                bptt.backward(net, y)
                net.recurrent.requires_grad_()

    with pytest.raises(bptt.BpttError, match="no gradient passed through W"):
        run()


def test_omega_wants_w_itself():
    net = bptt.Network(bptt.Categorical(5), hidden=4)
    torch.nn.utils.parametrizations.weight_norm(net.recurrent, "weight_hh_l0")
    with pytest.raises(bptt.BpttError, match="weight_hh_l0 is computed from other parameters"):
        Omega(net, 1.0, sequences=B)
