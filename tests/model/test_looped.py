"""Networks with more in their loop, against the equations step by step; and dropout."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

import bptt
from bptt.cells.looped import Looped
from bptt.gradient.analysis.chain import chain_of
from bptt.gradient.sequences import Sequences
from bptt.model.dropout import units_dropped, units_of
from bptt.model.hidden import parts
from bptt.model.state import Regime
from tests.networks import FEATURES, H, N, flat_gradient, make
from tests.oracles import FLOAT64

T, B = 12, 3
LOOPS = [
    {"leak": 0.3},
    {"leak": (0.1, 0.9), "learn_leak": True},
    {"skips": (2, 5)},
    {"norm": True},
    {"leak": 0.4, "learn_leak": True, "skips": 3, "norm": True},
    {"leak": 0.4, "skips": (4,), "norm": True, "layers": 2, "cell": "relu"},
]


def network(**more: object) -> tuple[bptt.Network, Tensor, Tensor]:
    """Return a network whose every parameter is of some size, and data for it."""
    net, y, x = make("both", T=T, B=B, **more)
    for name, parameter in net.recurrent.named_parameters():
        if name.startswith(("gain", "shift")):
            torch.nn.init.normal_(parameter, mean=float(name.startswith("gain")), std=0.4)
    assert x is not None
    return net, y, x


def by_hand(
    net: bptt.Network, y: Tensor, x: Tensor, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the nll, (T, B), and the top layer's h, a sequence, a step and a layer at a time."""
    layer, loop = net.recurrent, net.loop
    nll, tops = [], []
    for i in range(y.shape[1]):
        history = [[torch.zeros(H).double()] for _ in range(layer.num_layers)]
        rows, hidden = [], []
        for t in range(len(y)):
            fed = torch.zeros(N).double()
            if t > 0:
                fed[y[t - 1, i]] = 1
            if resets is not None and resets[t, i]:
                history, fed = [[torch.zeros(H).double()] for _ in history], torch.zeros(N).double()
            below = torch.cat([x[t, i], fed])
            for k, past in enumerate(history):
                part = lambda name, k=k: getattr(layer, f"{name}_l{k}")  # noqa: E731
                a = part("bias_ih") + part("weight_ih") @ below + part("weight_hh") @ past[-1]
                for d in loop.skips:
                    if d <= len(past):
                        a = a + part(f"weight_skip{d}") @ past[-d]
                if loop.norm:
                    normal = (a - a.mean()) / torch.sqrt(a.var(correction=0) + 1e-5)
                    a = part("gain") * normal + part("shift")
                fresh = torch.tanh(a) if net.cell == "tanh" else torch.relu(a)
                if loop.leak is not None:
                    alpha = torch.sigmoid(part("leak")) if loop.learn_leak else part("leak")
                    fresh = (1 - alpha) * past[-1] + alpha * fresh
                past.append(fresh)
                below = fresh
            o = net.readout.bias + net.readout.weight @ below
            rows.append(-torch.log_softmax(o, 0)[y[t, i]])
            hidden.append(below)
        nll.append(torch.stack(rows))
        tops.append(torch.stack(hidden))
    return torch.stack(nll, 1), torch.stack(tops, 1)


@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_equals_the_equations_step_by_step(loop: dict[str, object], with_resets: bool) -> None:
    net, y, x = network(**loop)
    resets = torch.rand(T, B) < 0.2 if with_resets else None
    nll, hidden = by_hand(net, y, x, resets)
    out = net(y, x=x, resets=resets)
    torch.testing.assert_close(out.nll, nll, **FLOAT64)
    torch.testing.assert_close(out.hidden, hidden, **FLOAT64)
    nll.sum().backward()
    expected = flat_gradient(net)
    net.zero_grad()
    bptt.backward(net, y, x=x, resets=resets, reduction="sum")
    torch.testing.assert_close(flat_gradient(net), expected, **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
def test_sequences_that_end_are_as_if_by_themselves(loop: dict[str, object]) -> None:
    net, y, x = network(**loop)
    lengths = torch.tensor([7, T, 1])
    out = net(y, x=x, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = net(y[:length, i : i + 1], x=x[:length, i : i + 1])
        torch.testing.assert_close(out.nll[:length, i : i + 1], alone.nll, **FLOAT64)
        for mine, other in zip(parts(out.state.hidden), parts(alone.state.hidden), strict=True):
            torch.testing.assert_close(mine[:, i : i + 1], other, **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_exact_gradient_within_a_budget(loop: dict[str, object]) -> None:
    net, y, x = network(**loop)
    y, x = y.repeat(100, 1), x.repeat(100, 1, 1)
    bptt.backward(net, y, x=x)
    expected = flat_gradient(net)
    net.zero_grad()
    planned = bptt.plan(net, len(y), B, "200KB", y=y, x=x)
    assert planned.chunks > 1
    bptt.backward(net, y, x=x, memory="200KB")
    torch.testing.assert_close(flat_gradient(net), expected, **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("with_resets", [False, True])
def test_the_parts_by_lag_are_those_of_truncation(
    loop: dict[str, object], with_resets: bool
) -> None:
    net, y, x = network(**loop)
    how = {"resets": torch.rand(T, B) < 0.1} if with_resets else {}
    flow = bptt.gradient_flow(net, y, x=x, **how)
    own = [p for p in net.recurrent.parameters() if p.requires_grad]

    def gradient(**cut: int) -> Tensor:
        net.zero_grad()
        bptt.backward(net, y, x=x, **how, **cut)
        return torch.cat([p.grad.flatten() for p in own])

    exact = gradient()
    for window in (1, 2, 4, 7):
        off = gradient(window=window, stride=1) - exact
        error = float(off.norm() / exact.norm())
        assert flow.truncation_error[window] == pytest.approx(error, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loop", LOOPS)
def test_jacobians_are_those_of_autograd(loop: dict[str, object]) -> None:
    net, y, x = network(**loop)
    found = bptt.jacobians(net, y, x=x, steps=None)
    layers, states = net.recurrent.num_layers, len(net.recurrent.state_sizes)
    chain = chain_of(net, Sequences.checked(y, x, Regime(), None, torch.device("cpu")), None)
    assert len(chain.seeds[0]) == states

    def step(flat: Tensor, t: int) -> Tensor:
        apart = flat.view(layers, states, 1, H).unbind(1)
        hidden = apart if states > 1 else apart[0]
        state = bptt.State(hidden, y[t - 1, :1])
        after = net(y[t : t + 1, :1], x=x[t : t + 1, :1], state=state).state.hidden
        after = after if states > 1 else (after,)
        return torch.stack(after, 1).flatten()

    for t in (1, 6):
        before = net(y[:t, :1], x=x[:t, :1]).state.hidden
        before = before if states > 1 else (before,)
        flat = torch.stack(before, 1).flatten().detach()
        expected = torch.autograd.functional.jacobian(lambda s, t=t: step(s, t), flat)
        torch.testing.assert_close(torch.tensor(found.matrices[t - 1, 0]), expected, **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_free_run_is_the_network_on_what_it_said(loop: dict[str, object]) -> None:
    net, _, _ = network(**loop)
    x = torch.randn(9, B, FEATURES).double()
    said = net.generate(9, x=x, generator=torch.Generator().manual_seed(1))
    whole = net.generate(9, x=x, temperature=0.0)
    assert torch.equal(net.generate(4, x=x[:4], temperature=0.0), whole[:4])
    out = net(whole, x=x)
    assert torch.equal(out.outputs.argmax(-1), whole)
    assert said.shape == whole.shape
    mean = net(y=whole, x=x, forcing=0.0, feedback="mean")
    assert mean.nll is not None
    mean.nll.sum().backward()
    assert bool(flat_gradient(net).isfinite().all())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_network_comes_back_from_its_config(loop: dict[str, object]) -> None:
    import json  # noqa: PLC0415

    net, y, x = network(**loop)
    other = bptt.Network.from_config(json.loads(json.dumps(net.config()))).double()
    assert isinstance(other.recurrent.cell("_l0"), Looped)
    assert other.loop == net.loop
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(y, x=x).nll, net(y, x=x).nll)


def test_a_fixed_point_rests_also_with_skips() -> None:
    net, _, _ = network(skips=(3,), leak=0.5)
    found = bptt.fixed_points(net, torch.randn(20, 3 * H))
    assert len(found.points) > 0
    point = torch.tensor(found.points[0])
    assert torch.allclose(point[:H], point[2 * H :], atol=1e-6)  # all delays hold the same
    state = tuple(part.view(1, 1, H) for part in point.split(H))
    x, y = torch.zeros(1, 1, FEATURES).double(), torch.zeros(1, 1, dtype=torch.int64)
    after = net(y, x=x, state=bptt.State(state)).state.hidden
    for before, now in zip(state, after, strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=1e-5)


def test_skips_are_edges_of_the_architecture() -> None:
    net, _, _ = network(skips=(3, 5))
    assert net.architecture.recurrent_skip_coefficient == 5
    assert [edge.delay for edge in net.architecture.edges if edge[0] == edge[1] == "h"] == [1, 3, 5]


def test_the_first_leaks_and_skips() -> None:
    net, *_ = network(leak=(0.01, 1.0))
    leaks = net.recurrent.leak_l0
    assert float(leaks[0]) == pytest.approx(0.01)
    assert float(leaks[-1]) == pytest.approx(1)
    ratios = leaks[1:] / leaks[:-1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-5)
    learned, *_ = network(leak=0.2, learn_leak=True)
    assert torch.allclose(torch.sigmoid(learned.recurrent.leak_l0), torch.full((H,), 0.2).double())
    skips, *_ = network(skips=(2, 3))
    for name in ("weight_hh_l0", "weight_skip2_l0", "weight_skip3_l0"):
        W = 3 * getattr(skips.recurrent, name)
        torch.testing.assert_close(W @ W.T, torch.eye(H).double(), rtol=0, atol=1e-6)


def columns_left_out(net: bptt.Network) -> dict[str, Tensor]:
    """Return, by parameter, which of its columns have no gradient."""
    named = [*net.recurrent.named_parameters(), ("readout", net.readout.weight)]
    named = [(re.sub(r"cells\.(\d)\.(.*)", r"\2_l\1", name), p) for name, p in named]
    matrices = {name: p for name, p in named if p.ndim == 2 and p.grad is not None}
    return {name: (p.grad == 0).all(0) for name, p in matrices.items()}


@pytest.mark.parametrize(
    ("recurrence", "more"),
    [
        ("both", {}),
        ("both", {"skips": (3,), "leak": 0.5, "layers": 2}),
        ("hidden", {"cell": "gru", "layers": 2}),
        ("hidden", {"cell": "lstm", "layers": 2}),
        ("output", {"layers": 2}),
    ],
)
@pytest.mark.parametrize("how", [{}, {"memory": "250KB"}, {"window": 30}])
def test_dropout_leaves_units_out_of_every_step_alike(
    recurrence: str, more: dict[str, object], how: dict[str, object]
) -> None:
    net = bptt.Network(
        bptt.Categorical(N), inputs=3, hidden=12, recurrence=recurrence, dropout=0.4, **more
    )
    y, x = torch.randint(N, (60, B)), torch.randn(60, B, 3)
    bptt.backward(net, y, x=x, **how)
    out = columns_left_out(net)
    layers = net.recurrent.num_layers
    for k in range(layers):
        entered = [f"weight_hh_l{k}", f"weight_ih_l{k + 1}", "readout" if k == layers - 1 else ""]
        entered += [f"weight_skip{d}_l{k}" for d in net.loop.skips]
        found = [out[name] for name in entered if name in out]
        assert all(torch.equal(found[0], other) for other in found)
    left_out = torch.cat([out[name] for name in out if name != "weight_ih_l0"])
    assert bool(left_out.any())
    assert not bool(left_out.all())
    assert not bool(out["weight_ih_l0"].any())


def test_dropout_is_the_network_with_dropped_weights() -> None:
    net, y, x = make("both", T=T, B=B, dropout=0.3, layers=2)
    torch.manual_seed(3)
    with units_dropped(net):
        dropped, top = units_of(net)
        out = net(y, x=x)
        assert torch.equal(net(y, x=x).nll, out.nll)  # of one draw
    other = bptt.Network.from_config({**net.config(), "dropout": 0.0}).double()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name, scale in dropped.items():
            other.recurrent.get_parameter(name).mul_(scale)
        other.readout.weight.mul_(top)
    torch.testing.assert_close(other(y, x=x).nll, out.nll, **FLOAT64)
    values = torch.cat(list(dropped.values()))
    assert set(values.unique().tolist()) <= {0.0, 1 / 0.7}


def test_dropout_is_for_training_alone() -> None:
    net, y, x = make("both", T=T, B=B, dropout=0.5)
    one, two = net(y, x=x).nll, net(y, x=x).nll
    assert not torch.equal(one, two)
    net.eval()
    assert torch.equal(net(y, x=x).nll, net(y, x=x).nll)
    flow = bptt.gradient_flow(net.train(), y, x=x)
    again = bptt.gradient_flow(net, y, x=x)
    assert (flow.truncation_error == again.truncation_error).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"leak": 0.0}, "leak is 0.0; expected a number above 0 and at most 1"),
        ({"leak": 1.5}, "leak is 1.5; expected a number above 0"),
        ({"leak": (0.1, 0.2, 0.3)}, "expected one number, or two"),
        ({"leak": []}, "expected one number, or two"),
        ({"leak": True}, "leak is True; expected a number above 0"),
        ({"leak": 1 - 1e-9, "learn_leak": True}, "expected it to start away from 0 and 1"),
        ({"skips": 4.5}, "skips are 4.5; expected a whole number, or several"),
        ({"skips": None}, "skips are None; expected a whole number"),
        ({"dropout": "0.5"}, "dropout is 0.5; expected a probability"),
        ({"learn_leak": True}, "learn_leak is given without a leak"),
        ({"leak": 1.0, "learn_leak": True}, "a leak of 1.0 is to be learned"),
        ({"skips": (1,)}, "a skip's delay is 1; expected"),
        ({"skips": (4, 2)}, r"skips are \(4, 2\); expected delays that rise"),
        ({"skips": (2, 2)}, "expected delays that rise"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a probability below 1"),
        ({"leak": 0.5, "cell": "gru"}, 'leak is given with cell "gru"; expected tanh or relu'),
        ({"norm": True, "cell": "lstm"}, 'norm is given with cell "lstm"'),
        ({"skips": 2, "recurrence": "output"}, 'skips is given with recurrence "output"'),
    ],
)
def test_bad_input(more: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Network(bptt.Categorical(N), hidden=H, **more)


def test_what_looks_at_w_alone_says_so() -> None:
    net, _, _ = network(skips=(2,), leak=0.5)
    with pytest.raises(bptt.BpttError, match="the network has leak and skips; expected W alone"):
        bptt.spectrum(net)


def test_a_state_of_another_network_is_refused() -> None:
    net, y, x = network(skips=(3,))
    with pytest.raises(bptt.BpttError, match=r"state.hidden is another network's: it has 1 parts"):
        net(y, x=x, state=bptt.State(torch.zeros(1, B, H).double()))


def test_all_of_it_can_be_combined() -> None:
    for leak, skips, norm, dropout in itertools.product(
        (None, 0.5), ((), (2,)), (False, True), (0.0, 0.2)
    ):
        net, y, x = network(leak=leak, skips=skips, norm=norm, dropout=dropout)
        bptt.backward(net, y, x=x, forcing=0.5)
        assert bool(flat_gradient(net).isfinite().all())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_states_after_some_steps_are_those_of_shorter_runs(loop: dict[str, object]) -> None:
    net, y, x = network(**loop)
    resets, lengths = torch.rand(T, B) < 0.2, torch.tensor([T, 5, 0])
    found = net.states_after([0, 3, 4, T], y, x=x, resets=resets, lengths=lengths)
    for steps, state in zip((0, 3, 4, T), found, strict=True):
        if steps == 0:
            assert all(not bool(part.any()) for part in parts(state.hidden))
            continue
        short = {"resets": resets[:steps], "lengths": lengths.clamp(max=steps)}
        expected = net.advance(y[:steps], x=x[:steps], **short)
        for mine, its in zip(parts(state.hidden), parts(expected.hidden), strict=True):
            torch.testing.assert_close(mine, its, **FLOAT64)


def test_what_runs_freely_or_is_measured_has_all_units() -> None:
    net, y, x = make("both", T=T, B=B, dropout=0.9)
    ahead = torch.cat([x, torch.randn(4, B, FEATURES).double()])
    said = [net.generate(4, x=ahead, prompt=y, temperature=0.0) for _ in range(10)]
    assert all(torch.equal(said[0], other) for other in said[1:])
    assert net.training


def test_a_run_shorter_than_a_skip_with_resets_can_be_looked_into() -> None:
    net, y, x = make("both", T=3, B=2, skips=5)
    resets = torch.tensor([[False, False], [False, True], [False, False]])
    flow = bptt.gradient_flow(net, y, x=x, resets=resets)
    bptt.backward(net, y, x=x, resets=resets, window=1, stride=1)
    truncated = torch.cat([p.grad.flatten() for p in net.recurrent.parameters() if p.requires_grad])
    net.zero_grad()
    bptt.backward(net, y, x=x, resets=resets)
    exact = torch.cat([p.grad.flatten() for p in net.recurrent.parameters() if p.requires_grad])
    error = float((truncated - exact).norm() / exact.norm())
    assert flow.truncation_error[1] == pytest.approx(error)
