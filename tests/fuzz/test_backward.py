"""Random calls of bptt.backward against autograd: exact, in any memory, and window by window."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bptt
from tests.fuzz.campaign import fuzz
from tests.oracles import FLOAT64

EXACT = {"rtol": 0.0, "atol": 1e-11}
LIKELIHOODS = {
    "categorical": lambda: bptt.Categorical(3),
    "bernoulli": lambda: bptt.Bernoulli(2),
    "gaussian": lambda: bptt.Gaussian(2),
}


@st.composite
def networks(draw: st.DrawFn) -> bptt.Network:
    recurrence = draw(st.sampled_from(["hidden", "output", "both"]))
    cells = ["tanh", "relu"] if recurrence == "output" else ["tanh", "relu", "gru", "lstm"]
    cell = draw(st.sampled_from(cells))
    more: dict[str, Any] = {}
    if cell in ("tanh", "relu") and recurrence != "output" and draw(st.booleans()):
        more = {"leak": 0.5, "skips": draw(st.sampled_from([(), (2,), (3,)]))}
    return bptt.Network(
        LIKELIHOODS[draw(st.sampled_from(sorted(LIKELIHOODS)))](),
        inputs=draw(st.sampled_from([0, 2])),
        hidden=draw(st.integers(1, 5)),
        recurrence=recurrence,
        cell=cell,
        layers=draw(st.integers(1, 2)),
        **more,
    ).double()


def data_for(net: bptt.Network, T: int, B: int) -> tuple[Tensor, Tensor | None]:
    kind = type(net.likelihood)
    y = torch.randn(T, B, 2).double()
    if kind is bptt.Categorical:
        y = torch.randint(3, (T, B))
    elif kind is bptt.Bernoulli:
        y = (y > 0).double()
    return y, torch.randn(T, B, 2).double() if net.inputs.width else None


@st.composite
def options(draw: st.DrawFn, T: int, B: int) -> dict[str, Any]:
    """Return lengths, resets and weights, each or none."""
    chosen: dict[str, Any] = {}
    if draw(st.booleans()):
        lengths = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
        chosen["lengths"] = torch.tensor([T, *lengths[1:]])
    if draw(st.booleans()):
        chosen["resets"] = torch.rand(T, B) < 0.3
    if draw(st.booleans()):
        chosen["loss_weights"] = torch.rand(T, B).double()
    return chosen


def gradient(net: bptt.Network) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    net.zero_grad()
    return torch.cat([grad.flatten() for grad in grads])


def window_by_window(
    net: bptt.Network, y: Tensor, x: Tensor | None, window: int, stride: int, how: dict[str, Any]
) -> Tensor:
    """Return the gradient of Σ w·nll whose losses j in (is, e] reach back to k > e − window."""
    T, weights = len(y), how.get("loss_weights", torch.ones(y.shape[:2]).double())

    def run(start: int, stop: int, state: Any) -> Any:
        part = {}
        if "lengths" in how:
            part["lengths"] = (how["lengths"] - start).clamp(0, stop - start)
        if "resets" in how:
            part["resets"] = how["resets"][start:stop]
        return net(y[start:stop], x=None if x is None else x[start:stop], state=state, **part)

    for first in range(0, T, stride):
        stop = min(first + stride, T)
        start, state = max(0, stop - window), None
        if start:
            with torch.no_grad():
                state = run(0, start, None).state
        nll = run(start, stop, state).nll[first - start :]
        (nll * weights[first:stop]).sum().backward()
    return gradient(net)


@fuzz(weight=0.5)
@given(st.data())
def test_every_window_and_budget(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    net, T, B = data.draw(networks()), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    y, x = data_for(net, T, B)
    how = data.draw(options(T, B))
    window = data.draw(st.one_of(st.none(), st.integers(1, T + 1)))
    stride = None if window is None else data.draw(st.integers(1, window))
    more: dict[str, Any] = {**how, "window": window, "stride": stride, "reduction": "sum"}
    if net.loop.delays[-1] > 1 and window is not None:
        more["window"] = more["stride"] = window = stride = None
    if data.draw(st.booleans()):
        more["memory"] = budget(net, y, x, more, data.draw(st.integers(0, 4)))
    reach = T if window is None or window >= T else window
    expected = window_by_window(net, y, x, reach, T if reach == T else stride, how)
    bptt.backward(net, y, x=x, **more)
    torch.testing.assert_close(gradient(net), expected, **FLOAT64)


@fuzz(weight=0.5)
@given(st.data())
def test_any_budget_of_longer_sequences_gives_the_same_gradient(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    net, T, B = data.draw(networks()), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 3))
    y, x = data_for(net, T, B)
    how = data.draw(options(T, B))
    done = bptt.backward(net, y, x=x, **how)
    expected = gradient(net)
    least = budget(net, y, x, how, 0)
    memory = data.draw(st.integers(least, max(least, 2000 * (T + 100))))
    again = bptt.backward(net, y, x=x, **how, memory=memory)
    torch.testing.assert_close(gradient(net), expected, **EXACT)
    torch.testing.assert_close(again.loss, done.loss, **EXACT)
    torch.testing.assert_close(again.state, done.state, **EXACT)


def budget(net: bptt.Network, y: Tensor, x: Tensor | None, how: dict[str, Any], much: int) -> int:
    """Return a budget of memory from the least that does up."""
    with pytest.raises(bptt.BpttError, match="expected at least") as refused:
        bptt.backward(net, y, x=x, **how, memory=1)
    (least,) = re.findall(r"expected at least ([\d,]+)", str(refused.value))
    return int(least.replace(",", "")) * (4 + much) // 4


WRONG: list[Any] = [None, "y", 0, -1, 1.5, float("nan"), [], {}, torch.zeros(0), torch.zeros(2, 2)]


@fuzz(weight=0.5)
@given(st.data())
def test_a_wrong_argument_is_refused_and_changes_no_gradient(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    net, T, B = data.draw(networks()), data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    y, x = data_for(net, T, B)
    how: dict[str, Any] = {"y": y, "x": x, **data.draw(options(T, B))}
    how["window"] = how["stride"] = how["memory"] = None
    name = data.draw(st.sampled_from([*how, "reduction", "forcing", "feedback"]))
    how[name] = data.draw(st.sampled_from(WRONG))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = torch.cat([p.grad.flatten() for p in net.parameters()])
    try:
        bptt.backward(net, **how)
    except bptt.BpttError:
        after = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert torch.equal(after, before)
