"""What is added to the nll: its gradient is autograd's of both, in whatever chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bptt
from bptt import penalties
from tests.networks import UsersLSTM, flat_gradient, make

T, B = 40, 3
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def uneven(out: Any) -> Tensor:
    """Return a penalty of each step, infinite where the top layer's h is 0, as beyond an end."""
    return 0.3 * out.hidden.square().mean(-1) + 1e-9 / out.hidden.abs().mean(-1)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("way", [{}, {"memory": 300_000}, {"window": 20}])
def test_the_gradient_is_that_of_both(cell: str, reduction: str, way: dict[str, Any]) -> None:
    net, y, x = make("both", cell, T=T, B=B)
    lengths, w = torch.tensor([T, 25, 1]), torch.rand(T, B).double()
    out = net(y, x=x, lengths=lengths)
    alive = torch.arange(T).unsqueeze(1) < lengths
    w = torch.where(torch.rand(T, B) < 0.2, 0.0, w) * alive
    total = 1.0 if reduction == "sum" else float(w.sum())
    nll = (w * out.nll).sum() / total
    if "window" not in way:
        ((w * uneven(out).masked_fill(~alive, 0)).sum() / total + nll).backward()
    else:  # in two pieces, of which the second starts from a state that is held
        state, weights = None, w
        for at in (slice(0, 20), slice(20, T)):
            n = (lengths - at.start).clamp(0, at.stop - at.start)
            piece = net(y[at], x=x[at], state=state, lengths=n)
            mask = torch.arange(at.stop - at.start).unsqueeze(1) < n
            both = piece.nll + uneven(piece).masked_fill(~mask, 0)
            ((weights[at] * both).sum() / total).backward()
            hidden = piece.state.hidden
            held = tuple(h.detach() for h in hidden) if cell == "lstm" else hidden.detach()
            state = piece.state._replace(hidden=held)
    expected = flat_gradient(net)
    net.zero_grad()
    done = bptt.backward(
        net, y, x=x, lengths=lengths, loss_weights=w, reduction=reduction, penalty=uneven, **way
    )
    torch.testing.assert_close(flat_gradient(net), expected, **CLOSE)
    torch.testing.assert_close(done.loss, nll.detach(), **CLOSE)


def test_one_number_counts_once_whatever_the_chunks() -> None:
    net, y, x = make("hidden", "gru", T=T, B=B)
    penalty = penalties.Weights([net.recurrent.weight_hh_l0], 0.1, power=1.5)
    (net(y, x=x).nll.mean() + 0.1 * net.recurrent.weight_hh_l0.abs().pow(1.5).sum()).backward()
    expected = flat_gradient(net)
    for way in ({}, {"memory": 300_000}):
        net.zero_grad()
        bptt.backward(net, y, x=x, penalty=penalty, **way)
        torch.testing.assert_close(flat_gradient(net), expected, **CLOSE)


def test_a_module_of_ones_own_has_one() -> None:
    net = UsersLSTM().double()
    y = torch.randint(5, (T, B))
    nll, _ = net(y)
    (nll.mean() + nll.square().mean()).backward()
    expected = flat_gradient(net)
    net.zero_grad()
    bptt.backward(net, y, penalty=lambda out: out[0].square())
    torch.testing.assert_close(flat_gradient(net), expected, **CLOSE)


@pytest.mark.parametrize(
    ("penalty", "words"),
    [
        (lambda out: 1.0, "the penalty returned 1.0; expected a tensor of real numbers"),
        (lambda out: out.nll > 0, "expected a tensor of real numbers"),
        (lambda out: out.hidden, r"shape \(40, 3, 4\); expected one number, or one for each step"),
        (0.1, "penalty is 0.1; expected a function of what the net returns"),
    ],
)
def test_what_is_no_penalty_is_refused(penalty: Any, words: str) -> None:
    net, y, x = make("hidden", T=T, B=B)
    with pytest.raises(bptt.BpttError, match=words):
        bptt.backward(net, y, x=x, penalty=penalty)
    assert all(p.grad is None for p in net.parameters())


def test_activity_is_the_mean_over_units() -> None:
    net, y, x = make("hidden", T=T, B=B)
    out = net(y, x=x)
    h = out.hidden
    torch.testing.assert_close(penalties.Activity(0.2)(out), 0.2 * (h * h).sum(-1) / h.shape[-1])
    torch.testing.assert_close(
        penalties.Activity(2, power=1)(out), 2 * h.abs().sum(-1) / h.shape[-1]
    )


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), "much"])
def test_a_strength_that_is_none_is_refused(strength: Any) -> None:
    with pytest.raises(bptt.BpttError, match=r"strength is .*expected a positive number"):
        penalties.Activity(strength)


@pytest.mark.parametrize("weights", [[], torch.ones(2), [1.0], [torch.ones(2).long()]])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(bptt.BpttError, match="expected a"):
        penalties.Weights(weights, 0.1)


def text(folder: Path) -> bptt.Text:
    (folder / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
    return bptt.read_text(folder / "text.txt")


def test_training_with_one_keeps_the_activity_low_and_goes_on_with_it(tmp_path: Path) -> None:
    data = text(tmp_path)
    settings = bptt.Settings(max_updates=60, window=10, batch=4, learning_rate=0.03)
    activity, ends = [], []
    for penalty in (None, penalties.Activity(30.0)):
        torch.manual_seed(1)
        net = bptt.Network(bptt.Categorical(data.vocabulary.size), hidden=8)
        bptt.fit(net, data, settings, penalty=penalty, out=tmp_path / f"run{len(ends)}")
        y = data.validation_batches(4).get(0, 0).y
        activity.append(float(net(y).hidden.detach().square().mean()))
        ends.append(net)
    assert activity[1] < activity[0] / 2
    assert json.loads((tmp_path / "run1/config.json").read_text())["penalty"].startswith(
        "Activity("
    )
    with pytest.raises(bptt.BpttError, match=r"begun with Activity\(.*, and penalty is None"):
        bptt.resume(tmp_path / "run1", max_updates=62)
    with pytest.raises(bptt.BpttError, match="begun with no penalty"):
        bptt.resume(tmp_path / "run0", max_updates=62, penalty=penalties.Activity(1.0))
    again, _ = bptt.resume(tmp_path / "run1", max_updates=62, penalty=penalties.Activity(30.0))
    assert not torch.equal(again.recurrent.weight_hh_l0, ends[1].recurrent.weight_hh_l0)


def test_settings_name_the_two_that_there_are(tmp_path: Path) -> None:
    settings = {"max_updates": 3, "batch": 2, "window": 8}
    ends = []
    for named in (False, True):
        torch.manual_seed(1)
        data = text(tmp_path)
        net = bptt.Network(bptt.Categorical(data.vocabulary.size), hidden=5, layers=2)
        quiet = penalties.Activity(3.0)
        matrices = [p for p in net.parameters() if p.requires_grad and p.ndim == 2]
        small = penalties.Weights(matrices, 0.2)
        given: dict[str, Any] = {"penalty": lambda out: quiet(out) + small(out)}  # noqa: B023
        if named:
            settings |= {"activity_penalty": 3.0, "weight_penalty": 0.2}
            given = {"out": tmp_path / "run"}
        bptt.fit(net, data, bptt.Settings(**settings), **given)
        ends.append(torch.nn.utils.parameters_to_vector(net.parameters()))
    torch.testing.assert_close(ends[0], ends[1])
    again, _ = bptt.resume(tmp_path / "run", max_updates=4)
    assert bptt.Run.open(tmp_path / "run").settings().weight_penalty == 0.2
    assert again.config() == net.config()
