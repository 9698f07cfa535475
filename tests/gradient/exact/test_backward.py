"""bptt.backward against the textbook's double sum, and its own laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bptt
from tests import oracles
from tests.covering import pairs
from tests.networks import FEATURES, RECURRENT_CELLS, H, N, flat_gradient, make
from tests.oracles import FLOAT64

RECURRENCES = ("hidden", "output", "both")
CASES = pairs(RECURRENCES, ("tanh", "relu"), (1, 7), (1, 3), (False, True))


def assert_gradients(net: bptt.Network, expected: oracles.Weights) -> None:
    torch.testing.assert_close(vars(oracles.gradients(net)), vars(expected), **FLOAT64)


@pytest.mark.parametrize(("recurrence", "cell", "T", "B", "with_x"), CASES)
def test_equals_the_double_sum(recurrence: str, cell: str, T: int, B: int, with_x: bool) -> None:
    net, y, x = make(recurrence, cell, T, B, with_x)
    loss, expected = oracles.double_sum(net, y, x, [T] * B)
    done = bptt.backward(net, y, x=x, reduction="sum")
    assert float(done.loss) == pytest.approx(loss, abs=1e-10)
    assert done.steps == T * B
    assert_gradients(net, expected)


@pytest.mark.parametrize("cell", ["tanh", "relu"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_equals_the_double_sum_with_ragged_lengths(recurrence: str, cell: str) -> None:
    net, y, x = make(recurrence, cell)
    lengths = [7, 1, 4]
    loss, expected = oracles.double_sum(net, y, x, lengths)
    y = torch.where(torch.arange(7).unsqueeze(1) < torch.tensor(lengths), y, -100)  # any filler
    done = bptt.backward(net, y, x=x, lengths=torch.tensor(lengths), reduction="sum")
    assert float(done.loss) == pytest.approx(loss, abs=1e-10)
    assert done.steps == sum(lengths)
    assert_gradients(net, expected)


@pytest.mark.parametrize(("recurrence", "cell", "T", "B", "with_x"), CASES)
def test_equals_the_sum_over_tied_copies(
    recurrence: str, cell: str, T: int, B: int, with_x: bool
) -> None:
    net, y, x = make(recurrence, cell, T, B, with_x)
    loss, expected = oracles.tied_copies(net, y, x)
    done = bptt.backward(net, y, x=x, reduction="sum")
    assert float(done.loss) == pytest.approx(loss, abs=1e-10)
    assert_gradients(net, expected)


@pytest.mark.parametrize("window", [1, 2, 3, 6])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_window_cuts_the_double_sum_at_every_chunk(recurrence: str, window: int) -> None:
    net, y, x = make(recurrence)
    lengths = [7, 1, 4]
    reach = oracles.reach(7, window, window)
    _, expected = oracles.double_sum(net, y, x, lengths, first=reach)
    bptt.backward(net, y, x=x, window=window, lengths=torch.tensor(lengths), reduction="sum")
    assert_gradients(net, expected)


def test_a_short_window_changes_the_gradient() -> None:
    net, y, x = make("both")
    bptt.backward(net, y, x=x)
    exact = flat_gradient(net)
    net.zero_grad()
    bptt.backward(net, y, x=x, window=3)
    assert (flat_gradient(net) - exact).norm() > 1e-3 * exact.norm()


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize("window", [7, 8, 1000])
def test_a_window_of_T_or_more_is_exact(cell: str, window: int) -> None:
    net, y, x = make("both", cell, layers=2)
    exact_loss = bptt.backward(net, y, x=x).loss
    exact = flat_gradient(net)
    net.zero_grad()
    done = bptt.backward(net, y, x=x, window=window)
    assert float(done.loss) == float(exact_loss)
    assert torch.equal(flat_gradient(net), exact)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
def test_gradcheck(recurrence: str, cell: str, layers: int) -> None:
    net, y, x = make(recurrence, cell, T=4, B=2, layers=layers)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    y[-1, -1] = 0

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        replaced = dict(zip(trained, values, strict=True))
        lengths = torch.tensor([4, 3])
        out = torch.func.functional_call(net, replaced, (y,), {"x": x, "lengths": lengths})
        return out.nll

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), *trained.values()), fast_mode=True)


@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
def test_the_carried_state_makes_two_calls_one(recurrence: str, cell: str) -> None:
    net, y, x = make(recurrence, cell, layers=2)
    lengths = torch.tensor([7, 2, 4])
    whole = net(y, x=x, lengths=lengths)
    first = net(y[:3], x=x[:3], lengths=lengths.clamp(max=3))
    second = net(y[3:], x=x[3:], state=first.state, lengths=(lengths - 3).clamp(min=0))
    torch.testing.assert_close(torch.cat([first.nll, second.nll]), whole.nll, **FLOAT64)
    torch.testing.assert_close(second.state, whole.state, **FLOAT64)

    bptt.backward(net, y, x=x, window=3, reduction="sum")
    at_once = flat_gradient(net)
    net.zero_grad()
    done = bptt.backward(net, y[:3], x=x[:3], window=3, reduction="sum")
    bptt.backward(net, y[3:], x=x[3:], state=done.state, window=3, reduction="sum")
    torch.testing.assert_close(flat_gradient(net), at_once, **FLOAT64)


def test_adds_to_the_gradient_that_is_there() -> None:
    net, y, x = make("both")
    bptt.backward(net, y, x=x)
    once = flat_gradient(net).clone()
    bptt.backward(net, y, x=x)
    torch.testing.assert_close(flat_gradient(net), 2 * once, **FLOAT64)


def test_loss_weights_and_mean() -> None:
    net, y, x = make("both")
    weights = torch.rand(7, 3).double()
    weights[2] = 0
    lengths = torch.tensor([7, 2, 4])
    out = net(y, x=x, lengths=lengths)
    within = torch.arange(7).unsqueeze(1) < lengths
    expected = (out.nll * weights).sum() / (weights * within).sum()
    expected.backward()
    gradient = flat_gradient(net)
    net.zero_grad()
    done = bptt.backward(net, y, x=x, lengths=lengths, loss_weights=weights)
    torch.testing.assert_close(done.loss, expected.detach(), **FLOAT64)
    torch.testing.assert_close(flat_gradient(net), gradient, **FLOAT64)


@pytest.mark.parametrize("window", [None, 2])
def test_the_gradient_reaches_x_and_the_first_state_through_what_made_them(
    window: int | None,
) -> None:
    net, y, x = make("both")
    encoder = torch.nn.Linear(FEATURES, FEATURES).double()
    h0 = torch.randn(1, 3, H).double().requires_grad_()

    def loss(h0: Tensor, x: Tensor) -> Tensor:
        if window is None:
            return net(y, x=x, state=bptt.State(2 * h0)).nll.sum()
        total = net(y[:2], x=x[:2], state=bptt.State(2 * h0)).nll.sum()
        for start, stop, first in [(2, 4, 0), (4, 6, 0), (5, 7, 1)]:
            with torch.no_grad():
                state = net(y[:start], x=x[:start], state=bptt.State(2 * h0)).state
            total = total + net(y[start:stop], x=x[start:stop], state=state).nll[first:].sum()
        return total

    loss(h0, encoder(x)).backward()
    expected = [h0.grad.clone(), encoder.weight.grad.clone()]
    h0.grad = None
    encoder.zero_grad()
    bptt.backward(net, y, x=encoder(x), state=bptt.State(2 * h0), window=window, reduction="sum")
    torch.testing.assert_close([h0.grad, encoder.weight.grad], expected, **FLOAT64)


def test_x_and_both_parts_of_a_state_may_come_from_one_graph() -> None:
    net, y, _ = make("both", "lstm")
    made_of = torch.randn(3, H).double().requires_grad_()

    def prepare() -> tuple[Tensor, bptt.State]:
        encoded = torch.tanh(made_of)
        x = encoded[:, :FEATURES].expand(7, 3, FEATURES)
        return x, bptt.State((2 * encoded.unsqueeze(0), encoded.exp().unsqueeze(0)))

    x, state = prepare()
    net(y, x=x, state=state).nll.sum().backward()
    expected = made_of.grad.clone()
    made_of.grad = None
    x, state = prepare()
    bptt.backward(net, y, x=x, state=state, reduction="sum")
    torch.testing.assert_close(made_of.grad, expected, **FLOAT64)
    x, state = prepare()
    bptt.backward(net, y, x=x, state=state, window=3, loss_weights=x[..., 0])  # seen as constants
    assert made_of.grad.isfinite().all()


@pytest.mark.parametrize("window", [None, 3])
def test_bad_input_at_the_end_is_seen_before_anything_is_added(window: int | None) -> None:
    net, y, x = make("both")
    too_long = torch.cat([x, x])
    with pytest.raises(bptt.BpttError, match=r"x has shape \(14, 3, 3\).*= \(7, 3, any\)"):
        bptt.backward(net, y, x=too_long, window=window)
    y[-1, -1] = N
    with pytest.raises(bptt.BpttError, match="y has tokens from 0 to 5"):
        bptt.backward(net, y, x=x, window=window)
    assert all(p.grad is None for p in net.parameters())


def test_a_sum_may_have_any_weights() -> None:
    net, y, x = make("both")
    bptt.backward(net, y, x=x, loss_weights=-torch.ones(7, 3), reduction="sum")
    negative = flat_gradient(net)
    net.zero_grad()
    bptt.backward(net, y, x=x, reduction="sum")
    torch.testing.assert_close(flat_gradient(net), -negative, **FLOAT64)


def test_the_result_holds_no_graph() -> None:
    net, y, x = make("both")
    done = bptt.backward(net, y, x=x)
    assert not done.loss.requires_grad
    assert not done.state.hidden.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window is 0; expected a whole number of at least 1"),
        ({"reduction": "max"}, "reduction is 'max'; expected one of 'mean', 'sum'"),
        ({"loss_weights": torch.ones(3, 7)}, r"loss_weights has shape \(3, 7\).*\(7, 3\)"),
        ({"loss_weights": torch.zeros(7, 3)}, "sum to 0.0; expected a positive"),
        ({"lengths": torch.tensor([7, 8, 1])}, r"lengths are \[7, 8, 1\].*0 to T = 7"),
        ({"lengths": torch.tensor([7, 1])}, r"lengths has shape \(2,\).*\(3,\)"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str) -> None:
    net, y, x = make("both")
    with pytest.raises(bptt.BpttError, match=message):
        bptt.backward(net, y, x=x, **arguments)
    assert all(p.grad is None for p in net.parameters())
