"""Every state that a call returns goes into every other call, in another regime, or is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bptt
from bptt.kernel import free_run as kernel
from bptt.kernel.free_run import FreeRun, LayerWeights
from bptt.model import mean_loop
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
        states = {name: net(y, x, **regime).state for name, regime in REGIMES.items()}
        for name in ("samples", "means"):
            states[f"{name} without y"] = net(None, x, **REGIMES[name]).state
    return states


def calls_of(net: bptt.Network, y: Tensor, x: Tensor) -> dict[str, Callable[[Any], Any]]:
    def forward(**regime: Any) -> Callable[[Any], Any]:
        return lambda state: net(y, x, state=state, **regime)

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
        "no y": lambda state: net(None, x, state=state, forcing=0.0),
        "advance": lambda state: net.advance(y, x, state=state),
        "generate": generate,
        "prompted": prompted,
        "forecast": forecast,
        "backward": lambda state: bptt.backward(net, y, x, state=state, window=2),
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
    monkeypatch.setattr(kernel, "can", lambda *_: False)
    monkeypatch.setattr(mean_loop, "can", lambda *_: False)
    for (state, call), got in zip(pairs, answers, strict=True):
        want = answer(calls[call], states[state])
        if isinstance(got, str):
            assert got == want
            is_means = "state.own holds means" in got and "mean" in state and net.feeds_back
            assert is_means or (call == "forecast" and likelihood == "categorical"), (state, call)
        else:
            torch.testing.assert_close(got, want, **FLOAT64, msg=f"{state} -> {call}")


def free_run(**changes: Any) -> FreeRun:
    H, O = 4, 3  # noqa: E741
    usual: dict[str, Any] = {
        "cell": "tanh",
        "p": torch.zeros(T, B, H),
        "layers": [
            LayerWeights(None, torch.zeros(H, H), None),
            LayerWeights(torch.zeros(H, H), torch.zeros(H, H), torch.zeros(H)),
        ],
        "R": torch.zeros(H, O),
        "V": torch.zeros(O, H),
        "c": torch.zeros(O),
        "hidden": torch.zeros(2, B, H),
        "own0": torch.zeros(B, dtype=torch.int64),
        "previous": torch.zeros(T, B, dtype=torch.int64),
        "forced": torch.zeros(T, B, dtype=torch.bool),
        "resets": torch.zeros(T, B, dtype=torch.bool),
        "kind": "categorical",
        "noise": torch.zeros(T, B),
        "temperature": 1.0,
        "scale": torch.zeros(0),
    }
    return FreeRun(**{**usual, **changes})


@pytest.mark.skipif(bptt.kernel.binding.native is None, reason="there is no kernel here")
def test_nothing_of_an_unexpected_size_reaches_the_kernel() -> None:
    kernel.run(free_run())
    for name, value in free_run()._asdict().items():
        if not isinstance(value, Tensor) or name == "scale":
            continue
        others = [value[1:], value.unsqueeze(0), value.to(torch.float16), value.to("meta")]
        for other in others:
            with pytest.raises(bptt.BpttError, match="expected"):
                kernel.run(free_run(**{name: other}))
    layer = LayerWeights(*(torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(4)))
    broken = [[], [layer, layer._replace(U=None)], [layer, layer._replace(b=torch.zeros(3))]]
    for layers in broken:
        with pytest.raises(bptt.BpttError):
            kernel.run(free_run(layers=layers))
    for bad in (-2, 3):
        with pytest.raises(bptt.BpttError, match="expected −1 for none, or from 0 to 2"):
            kernel.run(free_run(own0=torch.tensor([0, bad])))
    with pytest.raises(bptt.BpttError, match="lacks a tensor"):
        kernel.run(free_run(previous=None))
    for changes in ({"kind": "poisson"}, {"cell": "gru"}):
        with pytest.raises(bptt.BpttError, match="expected one of"):
            kernel.run(free_run(**changes))


def test_means_are_differentiated_once() -> None:
    net, y, x = make("categorical", "both", "tanh")
    loss = net(y, x, **REGIMES["means"]).nll.sum()
    with pytest.raises(bptt.BpttError, match="expected first derivatives"):
        torch.autograd.grad(loss, net.recurrent.weight_hh_l0, create_graph=True)


@pytest.mark.parametrize("recurrence", ["hidden", "output", "both"])
def test_the_states_after_steps_that_there_are_not_are_refused(recurrence: str) -> None:
    net, y, x = make("categorical", recurrence, "tanh")
    for resets in (None, torch.zeros(T, B, dtype=torch.bool)):
        assert net.states_after([], y, x, resets=resets) == []
        with pytest.raises(bptt.BpttError, match=f"a number of steps is 4; .* from 0 to {T}"):
            net.states_after([1, 4], y, x, resets=resets)
    with pytest.raises(bptt.BpttError):
        net.states_after([1], torch.tensor(1), x)


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
