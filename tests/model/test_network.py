"""What a Network computes, carries, generates and refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import bptt
from bptt.cells import elman
from bptt.kernel import ops
from tests.networks import RECURRENT_CELLS
from tests.oracles import FLOAT32, FLOAT64, one_hot

N, H, T, B = 5, 4, 7, 3
DOUBLE = {"dtype": torch.float64}


def network(recurrence: str = "both", **more: object) -> bptt.Network:
    return bptt.Network(bptt.Categorical(N), hidden=H, recurrence=recurrence, **more).double()


def symbols() -> Tensor:
    return torch.randint(N, (T, B))


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_matches_the_equations_step_by_step(recurrence: str) -> None:
    net, y, x = network(recurrence, inputs=2), symbols(), torch.randn(T, B, 2).double()
    out = net(y, x=x)
    layer, h = net.recurrent, torch.zeros(B, H).double()
    previous = torch.zeros(B, N).double()
    for t in range(T):
        a = layer.bias_ih_l0 + x[t] @ net.U.T
        a = a + (h @ layer.weight_hh_l0.T if recurrence != "output" else 0)
        a = a + (previous @ net.R.T if recurrence != "hidden" else 0)
        h, previous = torch.tanh(a), one_hot(y[t], N)
        o = net.readout.bias + h @ net.readout.weight.T
        torch.testing.assert_close(out.hidden[t], h, **FLOAT64)
        torch.testing.assert_close(out.outputs[t], o, **FLOAT64)
        nll = -torch.log_softmax(o, 1).gather(1, y[t].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(out.nll[t], nll, **FLOAT64)
    assert torch.equal(out.state.y, y[-1])


@pytest.mark.parametrize(
    ("cell", "layer"), [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM), ("tanh", torch.nn.RNN)]
)
@pytest.mark.parametrize("layers", [1, 3])
def test_recurrent_layers_are_those_of_torch(
    cell: str, layer: type[torch.nn.RNNBase], layers: int
) -> None:
    net, y = network(cell=cell, layers=layers), symbols()
    for parameter in net.recurrent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    theirs = layer(N, H, layers).double()
    theirs.load_state_dict(net.recurrent.state_dict())
    expected, state = theirs(one_hot(torch.cat([torch.full((1, B), -1), y[:-1]]), N))
    out = net(y)
    torch.testing.assert_close(out.hidden, expected, **FLOAT64)
    torch.testing.assert_close(out.state.hidden, state, **FLOAT64)


def test_relu_is_that_of_torch() -> None:
    net, x = network("hidden", cell="relu", inputs=2), torch.randn(T, B, 2).double()
    theirs = torch.nn.RNN(2, H, nonlinearity="relu").double()
    theirs.load_state_dict(net.recurrent.state_dict())
    torch.testing.assert_close(net(x=x).hidden, theirs(x)[0], **FLOAT64)


def test_a_fed_back_symbol_is_looked_up_and_never_made_one_hot() -> None:
    n = 200_000  # as one-hot vectors, 300 steps of 50 sequences would take 12 GB
    net = bptt.Network(bptt.Categorical(n), hidden=2)
    previous = torch.randint(n, (300, 50))
    found = net.likelihood.encoding.project(previous, net.R)
    torch.testing.assert_close(found[7, 11], net.R[:, previous[7, 11]], **FLOAT32)


def test_output_recurrence_has_no_loop_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_loop(*_: object, **__: object) -> None:
        raise AssertionError("there is a loop over time")

    net, y, x = network("output", layers=2, inputs=2), symbols(), torch.randn(T, B, 2).double()
    apart = [
        net(y[t : t + 1], x=x[t : t + 1], state=net(y[:t], x=x[:t]).state) for t in range(1, T)
    ]
    with monkeypatch.context() as without_kernel:
        without_kernel.setattr(elman, "ROWS_AT_ONCE", 10**6)  # one step has all rows
        without_kernel.setattr(ops, "native", lambda *_: "not here")
        outs = [net(y, x=x)]
    monkeypatch.setattr(ops, "run_steps", no_loop)
    outs.append(net(y, x=x))  # where the kernel has it, rows are only rows
    for out in outs:
        torch.testing.assert_close(out.nll[1:], torch.cat([o.nll for o in apart]), **FLOAT64)
    monkeypatch.setattr(ops, "run", no_loop)
    with pytest.raises(AssertionError, match="there is a loop"):
        network("hidden", inputs=2)(symbols(), x=torch.randn(T, B, 2).double())


def test_hidden_recurrence_on_the_previous_symbol_is_the_same_network_as_both() -> None:
    both, hidden = network("both"), network("hidden", inputs=bptt.Tokens(N))
    hidden.load_state_dict(both.state_dict())
    y = symbols()
    x = torch.cat([torch.full((1, B), -1), y[:-1]])
    torch.testing.assert_close(hidden(y, x=x).nll, both(y).nll, **FLOAT64)
    torch.testing.assert_close(hidden(y).nll, both(y).nll, **FLOAT64)  # x is yᵗ⁻¹ unless given
    first = hidden(y[:3])
    torch.testing.assert_close(hidden(y[3:], state=first.state).nll, both(y).nll[3:], **FLOAT64)
    assert torch.equal(
        hidden.generate(9, temperature=0.0, prompt=y), both.generate(9, temperature=0.0, prompt=y)
    )


def test_y_may_be_left_out_where_nothing_of_it_is_needed() -> None:
    net, y, x = network("hidden", inputs=2), symbols(), torch.randn(T, B, 2).double()
    out = net(x=x)
    assert out.nll is None
    assert torch.equal(out.outputs, net(y, x=x).outputs)


@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
def test_ragged_sequences_are_each_as_if_alone(recurrence: str, cell: str) -> None:
    net = network(recurrence, cell=cell, layers=2, inputs=2)
    y, x, lengths = symbols(), torch.randn(T, B, 2).double(), torch.tensor([7, 0, 4])
    out = net(y, x=x, lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        assert (out.nll[length:, i] == 0).all()
        if length == 0:
            assert out.state.y[i] == -1
            continue
        alone = net(y[:length, i : i + 1], x=x[:length, i : i + 1])
        torch.testing.assert_close(out.nll[:length, i], alone.nll[:, 0], **FLOAT64)
        assert out.state.y[i] == alone.state.y
        if recurrence != "output":
            parts = (out.state.hidden, alone.state.hidden)
            for mine, its in zip(*parts, strict=True) if cell == "lstm" else [parts]:
                torch.testing.assert_close(mine[:, i], its[:, 0], **FLOAT64)


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_what_lies_beyond_an_end_is_never_computed_with(recurrence: str) -> None:
    net, y, x = network(recurrence, inputs=2), symbols(), torch.randn(T, B, 2).double()
    lengths = torch.tensor([7, 2, 4], dtype=torch.uint8)
    net(y, x=x, lengths=lengths).nll.sum().backward()
    expected = [p.grad.clone() for p in net.parameters() if p.requires_grad]
    net.zero_grad()
    beyond = torch.arange(T).unsqueeze(1) >= lengths
    x[beyond], y[beyond] = math.nan, -100
    net(y, x=x, lengths=lengths).nll.sum().backward()
    got = [p.grad for p in net.parameters() if p.requires_grad]
    torch.testing.assert_close(got, expected, **FLOAT64)


def test_initialisation() -> None:
    net = bptt.Network(bptt.Categorical(500), inputs=64, hidden=64, cell="gru", layers=2)
    eye = torch.eye(64)
    for k in range(2):
        for gate in getattr(net.recurrent, f"weight_hh_l{k}").split(64):
            torch.testing.assert_close(gate @ gate.T, eye, rtol=0, atol=1e-5)
        assert not getattr(net.recurrent, f"bias_hh_l{k}").requires_grad
        assert (getattr(net.recurrent, f"bias_ih_l{k}") == 0).all()
    assert float(net.R.detach().std()) == pytest.approx(1, abs=0.02)
    assert float(net.U.detach().abs().max()) <= 64**-0.5


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_a_network_is_made_again_from_its_config(recurrence: str) -> None:
    net = network(recurrence, inputs=bptt.Tokens(3), cell="relu", layers=2)
    again = bptt.Network.from_config(net.config()).double()
    again.load_state_dict(net.state_dict())
    y, x = symbols(), torch.randint(3, (T, B))
    assert torch.equal(net(y, x=x).nll, again(y, x=x).nll)
    assert repr(net) == repr(again)


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_generate_reads_the_prompt_and_feeds_its_samples_back(recurrence: str) -> None:
    inputs = bptt.Tokens(N) if recurrence == "hidden" else 0
    net, prompt = network(recurrence, inputs=inputs), symbols()
    run = net.generate(6, prompt=prompt, generator=torch.Generator().manual_seed(3))
    noise, y = torch.rand(6, B, 1, generator=torch.Generator().manual_seed(3), **DOUBLE), prompt
    for u in noise:
        last = torch.cat([y, y[-1:]])  # any y stands for the one that is not known yet
        p = torch.softmax(net(last).outputs[-1], 1)
        y = torch.cat([y, (p.cumsum(1) <= u).sum(1, keepdim=True).T])
    assert torch.equal(run, y[T:])
    state = net(prompt).state
    again = net.generate(6, state=state, generator=torch.Generator().manual_seed(3))
    assert torch.equal(run, again)


def test_generate_takes_x_over_prompt_and_run() -> None:
    net, y, x = network(inputs=2), symbols(), torch.randn(T + 2, B, 2).double()
    first, second = net.generate(2, prompt=y, x=x, temperature=0.0)
    expected = net(torch.cat([y, first.unsqueeze(0), second.unsqueeze(0)]), x=x).outputs.argmax(-1)
    assert torch.equal(torch.stack([first, second]), expected[T:])
    assert net.generate(0, prompt=y, x=x[:T]).shape == (0, B)
    with pytest.raises(bptt.BpttError, match="x has 9 steps; expected 8"):
        net.generate(1, prompt=y, x=x)
    with pytest.raises(bptt.BpttError, match="x is missing"):
        net.generate(1)


def test_samples_have_the_probabilities_of_the_outputs() -> None:
    likelihood = bptt.Categorical(3)
    o = torch.tensor([0.0, 1.0, -1.0]).expand(40_000, 3)
    for temperature in (1.0, 0.5):
        drawn = likelihood.sample(o, temperature, torch.Generator().manual_seed(0))
        shares = torch.bincount(drawn, minlength=3) / len(o)
        torch.testing.assert_close(shares, (o[0] / temperature).softmax(0), rtol=0, atol=0.01)
    assert (likelihood.sample(o, 0.0) == 1).all()
    assert (likelihood.sample(o, 1e-30) == 1).all()
    assert (likelihood.sample(o, 1e-50) == 1).all()


def test_a_learned_first_state_moves_the_outputs() -> None:
    net, y = network(), symbols()
    h0 = torch.randn(1, B, H).double().requires_grad_()
    net(y, state=bptt.State(h0)).nll.sum().backward()
    assert float(h0.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"recurrence": "none"},
            "recurrence is 'none'; expected one of 'hidden', 'output', 'both'",
        ),
        ({"cell": "elman"}, "cell is 'elman'; expected one of 'tanh', 'relu', 'gru', 'lstm'"),
        ({"cell": "gru", "recurrence": "output"}, 'is "output" with cell "gru"; expected tanh'),
        ({"hidden": 0}, "hidden is 0; expected a whole number from 1 to"),
        ({"hidden": 2.5}, "hidden is 2.5; expected a whole number"),
        ({"hidden": 10**7}, r"a network of 1 x 10,000,000 .* take .* GB; this machine has"),
        ({"layers": 10**9}, "layers is 1000000000; expected a whole number from 1 to 1024"),
        ({"inputs": -1}, "inputs is -1; expected a whole number of at least 0"),
    ],
)
def test_bad_sizes_and_names(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Network(bptt.Categorical(N), **arguments)


X = torch.zeros(T, B, 2).double()


@pytest.mark.parametrize(
    ("y", "x", "more", "message"),
    [
        (None, None, {}, "y is missing; expected the true values"),
        (torch.zeros(T), X, {}, r"y has shape \(7,\); expected \(T, B\)"),
        (torch.zeros(0, B).long(), X[:0], {}, r"y has shape \(0, 3\).*at least one step"),
        (torch.zeros(T, B, 1).long(), X, {}, r"y has shape \(7, 3, 1\); expected \(T, B\)"),
        (torch.zeros(T, B), X, {}, "y has dtype torch.float32; expected integer tokens"),
        (torch.full((T, B), N), X, {}, "y has tokens from 5 to 5; expected 0 to 4$"),
        (torch.full((T, B), -1), X, {}, "y has tokens from -1 to -1; expected 0 to 4$"),
        (torch.zeros(T, B).long(), None, {}, "x is missing; expected it"),
        (torch.zeros(T, B).long(), X[1:], {}, r"x has shape \(6, 3, 2\).*\(7, 3, 2\)"),
        (torch.zeros(T, B).long(), X.long(), {}, "x has dtype torch.int64; expected torch.float64"),
        (
            torch.zeros(T, B).long(),
            X.float(),
            {},
            "x has dtype torch.float32; expected torch.float64",
        ),
        (torch.zeros(T, B).long(), X, {"state": X}, "state is a Tensor; expected what an earlier"),
        (
            torch.zeros(T, B).long(),
            X,
            {"state": bptt.State(torch.zeros(1, B, H))},
            r"state.hidden has dtype torch.float32",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"state": bptt.State(None, torch.full((B,), N))},
            "state.y has tokens from 5 to 5",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"lengths": [1, 2, 3]},
            "lengths are a list; expected a tensor",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"state": bptt.State(torch.zeros(1, B + 1, H).double())},
            r"state.hidden has shape \(1, 4, 4\); expected \(layers, B, H\) = \(1, 3, 4\)",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"state": bptt.State(None, torch.zeros(2).long())},
            r"state.y has shape \(2,\)",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"state": bptt.State((torch.zeros(1, B, H).double(),) * 2)},
            "state.hidden is another network's",
        ),
        (
            torch.zeros(T, B).long(),
            X,
            {"lengths": torch.tensor([1, 2, 9])},
            r"lengths are \[1, 2, 9\]; expected whole numbers from 0 to T = 7",
        ),
    ],
)
def test_bad_input(y: Tensor, x: Tensor, more: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        network(inputs=2)(y, x=x, **more)


def test_more_bad_input() -> None:
    with pytest.raises(bptt.BpttError, match="x is given; expected none"):
        network()(symbols(), x=X)
    with pytest.raises(bptt.BpttError, match="x has tokens from 3 to 3; expected 0 to 2, or -1"):
        network(inputs=bptt.Tokens(3))(symbols(), x=torch.full((T, B), 3))
    with pytest.raises(bptt.BpttError, match="neither y nor x is given"):
        network("hidden")()
    with pytest.raises(bptt.BpttError, match="temperature is nan"):
        network().generate(1, temperature=math.nan)
    with pytest.raises(bptt.BpttError, match="steps is -1"):
        network().generate(-1)
    with pytest.raises(
        bptt.BpttError, match=r"prompt has dtype torch.float64; expected integer tokens"
    ):
        network().generate(1, prompt=symbols().double())
