"""The cost of teacher forcing at test time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bptt

LIKELIHOODS = [bptt.Categorical(4), bptt.Bernoulli(2), bptt.Gaussian(2)]


@pytest.mark.parametrize("cell", ["tanh", "lstm"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda each: each.kind)
def test_exposure_is_the_free_runs_loss_less_the_forced_one(
    likelihood: bptt.Likelihood, cell: str
) -> None:
    T, B, n = 30, 2, 4
    net = bptt.Network(likelihood, inputs=1, hidden=5, cell=cell).double()
    o = torch.randn(T, B, likelihood.outputs).double()
    y, x = likelihood.draw(o, likelihood.noise(T, B, o)), torch.randn(T, B, 1).double()
    before = torch.get_rng_state()
    found = bptt.exposure(net, y, x=x, steps=n, starts=6, feedback="mean")
    assert torch.equal(torch.get_rng_state(), before)
    forced, free, errors = [], [], []
    places = range(1, 26, 4)[:6]
    for s in places:
        state = net(y[:s], x=x[:s]).state
        runs = [
            net(y[s : s + n + 1], x=x[s : s + n + 1], state=state, forcing=f, feedback="mean")
            for f in (1.0, 0.0)
        ]
        forced.append(runs[0].nll)
        free.append(runs[1].nll)
        if likelihood.kind != "categorical":
            errors.append(likelihood.mean(runs[1].outputs) - y[s : s + n + 1])
    forced, free = (torch.cat(rows, 1).detach().numpy() for rows in (forced, free))
    assert found.starts == len(places) * B
    np.testing.assert_allclose(found.forced, forced.mean(1), atol=1e-12)
    np.testing.assert_allclose(found.free, free.mean(1), atol=1e-12)
    np.testing.assert_allclose(found.excess, (free - forced).mean(1), atol=1e-12)
    np.testing.assert_allclose(found.spread, (free - forced).std(1), atol=1e-12)
    assert abs(found.excess[0]) < 1e-12
    if errors:
        squares = torch.cat(errors, 1).detach().numpy() ** 2
        np.testing.assert_allclose(found.free_error, np.sqrt(squares.mean((1, 2))), atol=1e-12)
        np.testing.assert_allclose(found.true, y[1 : n + 2].numpy())
        assert found.free_run.shape == found.forced_run.shape == (n + 1, B, likelihood.outputs)
        np.testing.assert_allclose(found.free_run[0], found.forced_run[0], atol=1e-12)
    else:
        assert found.free_error is None


def test_exposure_grows_for_a_network_that_knows_the_truth() -> None:
    """A network that copies yᵗ⁻¹ of a random walk: its error is √(k + 1) when it runs freely."""
    net = bptt.Network(bptt.Gaussian(1, scale="fixed"), hidden=4, recurrence="output", cell="relu")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.R[:2, 0] = torch.tensor([1.0, -1.0])
        net.readout.weight[0, :2] = torch.tensor([1.0, -1.0])
    y = torch.randn(3000, 1, 1).cumsum(0)
    found = bptt.exposure(net, y, steps=9, starts=1000, feedback="mean")
    np.testing.assert_allclose(found.free_error**2, np.arange(1, 11), rtol=0.15)
    np.testing.assert_allclose(found.forced_error, 1, rtol=0.1)
    np.testing.assert_allclose(
        found.excess, (found.free_error**2 - found.forced_error**2) / 2, atol=1e-3
    )


def test_samples_are_those_of_the_seed() -> None:
    net, y = bptt.Network(bptt.Categorical(4), hidden=5), torch.randint(4, (60, 2))
    first = bptt.exposure(net, y, steps=10)
    assert np.array_equal(first.free, bptt.exposure(net, y, steps=10).free)
    assert not np.array_equal(first.free, bptt.exposure(net, y, steps=10, seed=1).free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 9}, r"y has 10 steps; expected at least steps \+ 2 = 11"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 3, "starts": 0}, "starts is 0"),
        ({"steps": 3, "feedback": "mode"}, "feedback is 'mode'"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    net = bptt.Network(bptt.Categorical(4), hidden=5)
    with pytest.raises(bptt.BpttError, match=message):
        bptt.exposure(net, torch.randint(4, (10, 1)), **options)
