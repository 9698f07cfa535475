"""Every state that a call returns goes into every other call, in another regime, or is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import bptt
from bptt.kernel import ops
from tests.oracles import FLOAT64

T, B, X = 3, 2, 3
LIKELIHOODS: dict[str, Callable[[], bptt.Likelihood]] = {
    "categorical": lambda: bptt.Categorical(3),
    "bernoulli": lambda: bptt.Bernoulli(2),
    "gaussian": lambda: bptt.Gaussian(2),
}
KINDS = [
    (recurrence, cell)
    for recurrence in ("hidden", "output", "both")
    for cell in ("tanh", "gru", "lstm")
    if recurrence != "output" or cell == "tanh"
]
REGIMES: dict[str, dict[str, Any]] = {
    "forced": {},
    "samples": {"forcing": 0.0},
    "means": {"forcing": 0.0, "feedback": "mean"},
    "ragged": {"forcing": 0.5, "lengths": torch.tensor([0, 2])},
    "ragged means": {"forcing": 0.5, "feedback": "mean", "lengths": torch.tensor([0, 2])},
}


def make(likelihood: str, recurrence: str, cell: str) -> tuple[bptt.Network, Tensor, Tensor]:
    torch.manual_seed(0)
    net = bptt.Network(
        LIKELIHOODS[likelihood](), hidden=4, recurrence=recurrence, cell=cell, inputs=X
    ).double()
    symbols = likelihood == "categorical"
    y = torch.randint(3, (T, B)) if symbols else torch.randint(2, (T, B, 2)).double()
    return net, y, torch.randn(T, B, X).double()


def states_of(net: bptt.Network, y: Tensor, x: Tensor) -> dict[str, bptt.State]:
    with torch.no_grad():
        states = {name: net(y, x=x, **regime).state for name, regime in REGIMES.items()}
        for name in ("samples", "means"):
            states[f"{name} without y"] = net(None, x=x, **REGIMES[name]).state
    return states


def calls_of(net: bptt.Network, y: Tensor, x: Tensor) -> dict[str, Callable[[Any], Any]]:
    def forward(**regime: Any) -> Callable[[Any], Any]:
        return lambda state: net(y, x=x, state=state, **regime)

    def generate(state: Any, **more: Any) -> Tensor:
        run = net.generate(T, x=x, state=state, **more)
        assert run.shape == y.shape
        return run

    def forecast(state: Any) -> bptt.Forecast:
        ahead = net.forecast(T, x=x, state=state, paths=3)
        assert (ahead.mean.shape, ahead.paths.shape) == (y.shape, (3, *y.shape))
        return ahead

    def prompted(state: Any) -> Tensor:
        run = net.generate(T - 2, x=x, prompt=y[:2], state=state)
        assert run.shape == y[2:].shape
        return run

    return {
        **{name: forward(**regime) for name, regime in REGIMES.items()},
        "reset": forward(forcing=0.5, resets=torch.rand(T, B) < 0.5),
        "no y": lambda state: net(None, x=x, state=state, forcing=0.0),
        "advance": lambda state: net.advance(y, x=x, state=state),
        "generate": generate,
        "prompted": prompted,
        "forecast": forecast,
        "backward": lambda state: bptt.backward(net, y, x=x, state=state, window=2),
    }


def answer(call: Callable[[Any], Any], state: Any) -> Any:
    """What a call returns, all of its tensors; or the one line that says why not."""
    torch.manual_seed(1)
    try:
        leaves = torch.utils._pytree.tree_leaves(call(state))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    except bptt.BpttError as error:
        return str(error)


@pytest.mark.parametrize(
    ("likelihood", "recurrence", "cell"),
    [
        (name, *kind)
        for name in LIKELIHOODS
        for kind in KINDS
        if name == "categorical" or kind[1] == "tanh"
    ],
)
def test_every_state_goes_into_every_call(
    likelihood: str, recurrence: str, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the plain loop; only means of symbols are refused, where samples are to be fed back."""
    net, y, x = make(likelihood, recurrence, cell)
    states, calls = states_of(net, y, x), calls_of(net, y, x)
    pairs = list(itertools.product(states, calls))
    answers = [answer(calls[call], states[state]) for state, call in pairs]
    monkeypatch.setattr(ops, "native", lambda *_: "not here")
    for (state, call), got in zip(pairs, answers, strict=True):
        want = answer(calls[call], states[state])
        if isinstance(got, str):
            assert got == want
            is_means = "state.generated holds means" in got and "mean" in state and net.feeds_back
            assert is_means or (call == "forecast" and likelihood == "categorical"), (state, call)
        else:
            torch.testing.assert_close(got, want, **FLOAT64, msg=f"{state} -> {call}")


@pytest.mark.parametrize(("recurrence", "cell"), KINDS)
def test_means_are_differentiated_twice(recurrence: str, cell: str) -> None:
    net, y, x = make("categorical", recurrence, cell)
    weight, found = net.recurrent.weight_ih_l0, []
    for native in (ops.native, lambda *_: "not here"):
        with mock.patch.object(ops, "native", native):
            loss = net(y, x=x, **REGIMES["means"]).nll.sum()
            (grad,) = torch.autograd.grad(loss, weight, create_graph=True)
            found.append([grad, *torch.autograd.grad(grad.square().sum(), weight)])
    torch.testing.assert_close(found[0], found[1], **FLOAT64)


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_the_states_after_steps_that_there_are_not_are_refused(recurrence: str) -> None:
    net, y, x = make("categorical", recurrence, "tanh")
    for resets in (None, torch.zeros(T, B, dtype=torch.bool)):
        assert net.states_after([], y, x=x, resets=resets) == []
        with pytest.raises(bptt.BpttError, match=f"a number of steps is 4; .* from 0 to {T}"):
            net.states_after([1, 4], y, x=x, resets=resets)
    with pytest.raises(bptt.BpttError):
        net.states_after([1], torch.tensor(1), x=x)


@pytest.mark.parametrize("huge", [2**50, 2**63, 10**400])
def test_sizes_beyond_this_machine_are_refused_before_anything_is_made(huge: int) -> None:
    net, _, _ = make("gaussian", "both", "tanh")
    for call in (
        lambda: net.fresh_state(huge),
        lambda: net.example(2, huge),
        lambda: net.example(huge, 2),
        lambda: bptt.Gaussian(huge),
        lambda: bptt.Architecture.rnn1().unfold(huge),
        lambda: bptt.Architecture.rnn1().count_paths(("h", "h"), huge),
        lambda: bptt.Architecture.rnn1().paths(("h", "h"), huge),
    ):
        with pytest.raises(
            bptt.BpttError, match=r"this machine has|expected a whole number from 1|below 2⁶³"
        ):
            call()
