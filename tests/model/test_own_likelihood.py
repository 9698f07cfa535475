"""Likelihoods of a user's own: what they define is what happens, and what they lack is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune

import bptt
from bptt.gradient.analysis.chain import chain_of
from bptt.gradient.analysis.lags import whole
from bptt.gradient.sequences import Sequences
from bptt.kernel import ops
from bptt.model.state import Regime
from tests.oracles import FLOAT64

T, B = 5, 2


class Laplace(bptt.Likelihood):
    """A likelihood with all that it takes, and nothing of another's."""

    random = staticmethod(torch.rand)

    def __init__(self) -> None:
        super().__init__()
        self.outputs, self.noise_shape, self.encoding = 1, (1,), bptt.Features(1)

    def checked(
        self, name: str, y: Tensor, T: int, B: int, like: Tensor, alive: Any = None
    ) -> Tensor:
        return self.encoding.checked(name, y, T, B, like, alive)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (y - outputs).abs().sum(-1) + math.log(2)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def draw(self, outputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        half = noise - 0.5
        return outputs - temperature * half.sign() * torch.log1p(-2 * half.abs())


class Loud(bptt.Gaussian):
    """One that draws, and means, something else than what it is made from."""

    def draw(self, outputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.full_like(outputs, 7.0)

    def mean(self, outputs: Tensor) -> Tensor:
        return 3 * outputs


class Bare(bptt.Likelihood):
    """One that can be trained with, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs, self.noise_shape, self.encoding = 1, (1,), bptt.Features(1)

    checked = Laplace.checked
    nll = Laplace.nll


Y = torch.randn(T, B, 1, generator=torch.Generator().manual_seed(0)).double()

CALLS: dict[str, tuple[str, Callable[[bptt.Network], Any]]] = {
    "call": ("", lambda net: net(Y).nll),
    "print": ("", repr),
    "backward": ("", lambda net: bptt.backward(net, Y, window=2).loss),
    "flow": ("", lambda net: torch.from_numpy(bptt.gradient_flow(net, Y).by_lag)),
    "generate": ("draw", lambda net: net.generate(3, prompt=Y)),
    "stream": ("draw", lambda net: torch.cat(list(net.stream(3, prompt=Y)))),
    "samples": ("draw", lambda net: net(Y, forcing=0.5).nll),
    "forecast": ("draw", lambda net: net.forecast(3, prompt=Y, paths=2).paths),
    "means": ("mean", lambda net: net(Y, forcing=0.0, feedback="mean").nll),
    "exposure": (
        "draw",
        lambda net: torch.from_numpy(bptt.exposure(net, Y, steps=2).free),
    ),
}


def make(likelihood: bptt.Likelihood) -> bptt.Network:
    torch.manual_seed(1)
    return bptt.Network(likelihood, hidden=4).double()


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("kind", [Laplace, lambda: Loud(1)])
def test_they_go_everywhere(kind: Any, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the kernel as without, which asks the likelihood at every step."""
    run = CALLS[call][1]
    torch.manual_seed(2)
    got = run(make(kind()))
    monkeypatch.setattr(ops, "native", lambda *_: "not here")
    torch.manual_seed(2)
    want = run(make(kind()))
    if isinstance(got, Tensor):
        torch.testing.assert_close(got, want, **FLOAT64)
    else:
        assert got == want


def test_what_a_class_draws_and_means_is_its_own() -> None:
    net = make(Loud(1))
    assert bool((net.generate(3) == 7).all())
    said = net(Y, forcing=0.0, feedback="mean").state.generated
    o = net(Y, forcing=0.0, feedback="mean").outputs[-1]
    torch.testing.assert_close(said, 3 * o)


class Hidden(Loud):
    """One whose mean is no operation on rows that a program has."""

    def mean(self, outputs: Tensor) -> Tensor:
        return 3 * torch.special.sinc(outputs)


@pytest.mark.parametrize("kind", [Laplace, lambda: Loud(1), lambda: Hidden(1)])
def test_the_gradient_is_taken_apart_through_the_mean_of_any(kind: Any) -> None:
    net = make(kind())
    how: dict[str, Any] = {"forcing": torch.rand(T, B) < 0.3, "feedback": "mean"}
    sequences = Sequences.checked(Y, None, Regime(**how), None, torch.device("cpu"))
    gradient = whole(chain_of(net, sequences, None)).gradient
    bptt.backward(net, Y, reduction="sum", **how)
    for name, grad in gradient.items():
        torch.testing.assert_close(grad, net.recurrent.get_parameter(name).grad, **FLOAT64)


class Louder(Loud):
    """One that reads a number of its own."""

    level = 7.0

    def draw(self, outputs: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.full_like(outputs, self.level)


def test_what_a_class_reads_may_change() -> None:
    net = make(Louder(1))
    for level, place in ((7.0, net.likelihood), (8.0, net.likelihood), (9.0, Louder)):
        if place is Louder:
            del net.likelihood.level
        place.level = level
        assert bool((net.generate(3) == level).all())
    Louder.level = 7.0


def test_each_net_draws_with_its_own_tensors() -> None:
    """Of two likelihoods alike one has tensors that the other has not, of the same shapes."""
    found = []
    for first in (False, True):
        ops.program.cache_clear()
        if first:
            other = make(bptt.Gaussian(2))
            other.likelihood.foo, other.likelihood.bar = torch.zeros(2), torch.ones(2)
            other.generate(2)
        net = make(bptt.Gaussian(2))
        prune.identity(net.likelihood, "log_scale")
        net.likelihood.log_scale_orig.data.fill_(3.0)
        net.likelihood.log_scale_mask.zero_()
        torch.manual_seed(0)
        found.append(net.generate(4))
    assert torch.equal(*found)


@pytest.mark.parametrize("call", list(CALLS))
def test_what_is_missing_is_named(call: str) -> None:
    missing, run = CALLS[call]
    net = make(Bare())
    if missing:
        with pytest.raises(bptt.BpttError, match=f"Bare has no {missing}; expected a method"):
            run(net)
    else:
        assert run(net) is not None
