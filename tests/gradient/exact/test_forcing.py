"""bptt.backward with what the network says itself fed back, and with resets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bptt
from bptt.gradient.exact.plan import Plan
from bptt.gradient.exact.sweep import sweep
from bptt.gradient.sequences import Sequences
from bptt.model.state import Regime
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, flat_gradient, make

T, B = 30, 3
EXACT = {"rtol": 0.0, "atol": 1e-11}
LIKELIHOODS = [bptt.Categorical(5), bptt.Bernoulli(3), bptt.Gaussian(2)]


def problem(likelihood: bptt.Likelihood, recurrence: str, cell: str = "tanh") -> tuple[Any, ...]:
    """Return a network, its y and x, and a mask of where it is forced."""
    net, _, x = make(recurrence, cell, T, B)
    net = bptt.Network(likelihood, inputs=3, hidden=4, recurrence=recurrence, cell=cell).double()
    o = torch.randn(T, B, likelihood.outputs).double()
    return net, likelihood.draw(o, likelihood.noise(T, B, o)), x, torch.rand(T, B) < 0.5


def expected_gradient(net: bptt.Network, y: Tensor, x: Tensor, **options: Any) -> Tensor:
    """Return the gradient that autograd finds of the mean loss, from one call."""
    net.zero_grad()
    net(y, x=x, **options).nll.mean().backward()
    return flat_gradient(net).clone()


@pytest.mark.parametrize(
    ("likelihood", "recurrence", "cell"),
    pairs(
        LIKELIHOODS,
        ["hidden", "output", "both"],
        ["tanh", "relu", "gru", "lstm"],
        allowed=lambda _, *looped: looped in RECURRENT_CELLS,
    ),
)
def test_a_closed_loop_in_bounded_memory_is_exact(
    likelihood: bptt.Likelihood, recurrence: str, cell: str
) -> None:
    net, y, x, mask = problem(likelihood, recurrence, cell)
    resets = torch.rand(T, B) < 0.1
    options = {"forcing": mask, "feedback": "mean", "resets": resets}
    expected = expected_gradient(net, y, x, **options)
    for plan in (Plan.full(T), Plan(T, 7, 4, None), Plan(T, 4, 2, None)):
        net.zero_grad()
        sequences = Sequences.checked(
            y, x, Regime(None, resets, mask, "mean"), None, torch.device("cpu")
        )
        sweep(net, sequences, None, plan, 1 / (T * B))
        torch.testing.assert_close(flat_gradient(net), expected, **EXACT)
    for memory in ("300kB", "10MB"):
        net.zero_grad()
        bptt.backward(net, y, x=x, memory=memory, **options)
        torch.testing.assert_close(flat_gradient(net), expected, **EXACT)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda each: each.kind)
def test_samples_are_drawn_the_same_when_a_chunk_is_run_again(likelihood: bptt.Likelihood) -> None:
    net, y, x, _ = problem(likelihood, "both")
    found = []
    for room in (1, 2, 4):
        torch.manual_seed(1)
        net.zero_grad()
        sequences = Sequences.checked(y, x, Regime(forcing=0.5), None, torch.device("cpu"))
        swept = sweep(net, sequences, None, Plan(T, 6, room, None), 1.0)
        found.append((flat_gradient(net).clone(), swept.loss, swept.after))
    for again in found[1:]:
        torch.testing.assert_close(again, found[0], **EXACT)
    torch.manual_seed(1)
    losses, state = [], None
    for start in range(0, T, 6):
        out = net(y[start : start + 6], x=x[start : start + 6], state=state, forcing=0.5)
        losses.append(out.nll.sum())
        state = out.state
    torch.testing.assert_close(found[0][1], sum(losses).detach(), **EXACT)


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_resets_make_one_stream_of_several_sequences(recurrence: str) -> None:
    net, y, x, _ = problem(bptt.Categorical(5), recurrence)
    bptt.backward(net, y, x=x)
    expected = flat_gradient(net).clone()
    net.zero_grad()
    in_a_row = [rows.transpose(0, 1).flatten(0, 1).unsqueeze(1) for rows in (y, x)]
    resets = (torch.arange(T * B) % T == 0).unsqueeze(1)
    for how in ({}, {"memory": "200kB"}, {"window": 40}, {"window": 40, "stride": 5}):
        net.zero_grad()
        bptt.backward(net, in_a_row[0], x=in_a_row[1], resets=resets, **how)
        if "window" in how and "stride" not in how:
            assert recurrence == "output" or not torch.allclose(flat_gradient(net), expected)
        else:  # with the stride at least 36 steps back, and no sequence is longer than 30
            torch.testing.assert_close(flat_gradient(net), expected, **EXACT)


@pytest.mark.parametrize("options", [{"forcing": 0.5, "feedback": "mean"}, {"forcing": 0.0}])
def test_windows_that_overlap_must_not_each_draw_their_own(options: dict[str, Any]) -> None:
    net, y, x, mask = problem(bptt.Categorical(5), "both")
    with pytest.raises(bptt.BpttError, match="stride is 2 with forcing by chance; expected the wi"):
        bptt.backward(net, y, x=x, window=10, stride=2, **options)
    bptt.backward(net, y, x=x, window=10, **options)
    bptt.backward(net, y, x=x, window=10, stride=2, forcing=mask, feedback="mean")
    assert flat_gradient(net).isfinite().all()


def test_a_closed_loop_truncated_with_a_stride_is_the_cut_sum() -> None:
    net, y, x, mask = problem(bptt.Gaussian(2), "both")
    options = {"forcing": mask, "feedback": "mean"}
    window, stride = 8, 3
    total = torch.zeros(())
    for j in range(T):
        start = max(0, min((j // stride + 1) * stride, T) - window)
        state = None
        if start > 0:
            some = slice(0, start)
            state = net(y[some], x=x[some], forcing=mask[some], feedback="mean").state
            state = torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, state)
        some = slice(start, j + 1)
        total = (
            total
            + net(y[some], x=x[some], state=state, forcing=mask[some], feedback="mean")
            .nll[-1]
            .sum()
        )
    (total / (T * B)).backward()
    expected = flat_gradient(net).clone()
    net.zero_grad()
    bptt.backward(net, y, x=x, window=window, stride=stride, **options)
    torch.testing.assert_close(flat_gradient(net), expected, **EXACT)


def test_bad_input() -> None:
    net, y, x, mask = problem(bptt.Categorical(5), "both")
    with pytest.raises(bptt.BpttError, match=r"forcing has shape \(29, 3\); expected \(T, B\)"):
        bptt.backward(net, y, x=x, forcing=mask[1:])
    with pytest.raises(bptt.BpttError, match="resets is a list; expected a tensor"):
        bptt.backward(net, y, x=x, resets=[1])
    with pytest.raises(bptt.BpttError, match="feedback is 'mode'; expected one of"):
        bptt.backward(net, y, x=x, feedback="mode")
    assert all(p.grad is None for p in net.parameters())
