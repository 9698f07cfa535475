"""Forecasts: the run of means, and sampled paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bptt
from tests.oracles import FLOAT64

T, B, D, STEPS = 6, 2, 2, 5


def make(**more: object) -> tuple[bptt.Network, torch.Tensor]:
    net = bptt.Network(bptt.Gaussian(D), hidden=4, **more).double()
    torch.nn.init.normal_(net.likelihood.log_scale)
    return net, torch.randn(T, B, D).double()


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_the_mean_is_the_closed_loop_of_means(cell: str) -> None:
    net, y = make(inputs=3, cell=cell)
    x = torch.randn(T + STEPS, B, 3).double()
    ahead = net.forecast(STEPS, prompt=y, x=x, paths=3)
    state = net(y, x=x[:T]).state
    expected = net(
        x=x[T:], state=bptt.State(state.hidden, None, state.y), forcing=0.0, feedback="mean"
    )
    torch.testing.assert_close(ahead.mean, expected.outputs, **FLOAT64)
    again = net.forecast(STEPS, x=x[T:], state=state, paths=3)
    torch.testing.assert_close(again.mean, ahead.mean, **FLOAT64)


def test_paths_are_free_runs_each_of_its_own_sequence() -> None:
    net, y = make()
    paths = 4000
    ahead = net.forecast(2, prompt=y, paths=paths, generator=torch.Generator().manual_seed(0))
    assert ahead.paths.shape == (paths, 2, B, D)
    first, scale = net(y).state, net.likelihood.log_scale.detach().exp()
    o = net(torch.zeros(1, B, D).double(), state=first).outputs[0].detach()
    torch.testing.assert_close(ahead.paths[:, 0].mean(0), o, rtol=0, atol=float(scale.max()) / 10)
    spread = ahead.paths[:, 0].std(0)
    torch.testing.assert_close(spread, scale.expand(B, D), rtol=0.1, atol=0)
    for i in range(5):  # the second step follows from the first of the same path
        state = bptt.State(
            net(torch.zeros(1, B, D).double(), state=first).state.hidden, ahead.paths[i, 0]
        )
        o = net(torch.zeros(1, B, D).double(), state=state).outputs[0].detach()
        assert float(((ahead.paths[i, 1] - o) / scale).abs().max()) < 6
    low, high = ahead.quantile(0.05), ahead.quantile(0.95)
    inside = (ahead.paths >= low) & (ahead.paths <= high)
    assert float(inside.double().mean()) == pytest.approx(0.9, abs=0.002)


def test_bad_input() -> None:
    net, y = make()
    with pytest.raises(bptt.BpttError, match="the likelihood is categorical; expected numbers"):
        bptt.Network(bptt.Categorical(3), hidden=2).forecast(3)
    with pytest.raises(bptt.BpttError, match="steps is 0; expected a whole number from 1 to"):
        net.forecast(0)
    with pytest.raises(bptt.BpttError, match="paths is 0"):
        net.forecast(1, paths=0)
    with pytest.raises(bptt.BpttError, match="share is 2; expected a number from 0 to 1"):
        net.forecast(1).quantile(2)
    with pytest.raises(bptt.BpttError, match="x has 3 steps; expected 7, the prompt's and"):
        make(inputs=1)[0].forecast(1, prompt=y, x=torch.zeros(3, B, 1).double())


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_half_precision_under_autocast(cell: str) -> None:
    net = bptt.Network(bptt.Categorical(20), hidden=16, cell=cell).bfloat16()
    with torch.autocast("cpu"):
        run = net.generate(6, prompt=torch.tensor([[3], [19]]))
    assert run.shape == (6, 1)
    assert run.dtype == torch.int64


@pytest.mark.parametrize("likelihood", [bptt.Categorical(3), bptt.Gaussian(2)])
def test_no_sequences_give_none(likelihood: bptt.Likelihood) -> None:
    net = bptt.Network(likelihood, hidden=8)
    run = net.generate(200, state=bptt.State(torch.zeros(1, 0, 8)))
    assert run.shape == (200, 0, *likelihood.noise_shape)


def test_many_nets_at_once_by_torch_func() -> None:
    net, y = bptt.Network(bptt.Categorical(5), hidden=4), torch.randint(5, (6, 3))
    many = {name: torch.stack([p.detach()] * 3) for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        options = {"forcing": 0.5, "feedback": "mean"}
        return torch.func.functional_call(net, parameters, (y,), options).nll.sum()

    assert torch.func.vmap(loss, randomness="different")(many).shape == (3,)
