"""What each likelihood says of outputs: its NLL, its mean, its samples, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import bptt
from bptt.model.likelihoods import likelihood_from_config
from tests.oracles import FLOAT64, distribution

T, B, D = 4, 3, 2
MAKERS = [
    lambda: bptt.Categorical(5),
    lambda: bptt.Bernoulli(D),
    lambda: bptt.Gaussian(D),
    lambda: bptt.Gaussian(D, scale="fixed"),
]
MOST = 100_000


def make(maker: object) -> tuple[bptt.Likelihood, Tensor, Tensor]:
    """Return a likelihood, outputs and a y that fits it."""
    likelihood = maker().double()
    if isinstance(likelihood, bptt.Gaussian) and likelihood.scale == "learned":
        torch.nn.init.normal_(likelihood.log_scale)
    o = torch.randn(T, B, likelihood.outputs).double()
    noise = likelihood.noise(T, B, o)
    return likelihood, o, likelihood.draw(torch.zeros_like(o), noise)


@pytest.mark.parametrize("maker", MAKERS)
def test_nll_is_that_of_torchs_distributions(maker: object) -> None:
    likelihood, o, y = make(maker)
    expected = -distribution(likelihood, o).log_prob(y)
    expected = expected if expected.ndim == 2 else expected.sum(-1)
    torch.testing.assert_close(likelihood.nll(o, y), expected, **FLOAT64)


@pytest.mark.parametrize("maker", MAKERS)
def test_samples_have_the_mean_and_spread_of_the_distribution(maker: object) -> None:
    likelihood, o, _ = make(maker)
    p = distribution(likelihood, o[0, :1])
    drawn = likelihood.sample(o[0, :1].expand(MOST, -1), generator=torch.Generator().manual_seed(1))
    rows = drawn if drawn.is_floating_point() else torch.nn.functional.one_hot(drawn, 5).double()
    mean = likelihood.mean(o[0, 0])
    torch.testing.assert_close(rows.mean(0), mean, rtol=0, atol=0.03)
    variance = mean * (1 - mean) if likelihood.kind != "gaussian" else p.stddev[0] ** 2
    torch.testing.assert_close(rows.var(0), variance, rtol=0.03, atol=0.01)


def test_temperature() -> None:
    o = torch.tensor([[0.5, -1.0]]).expand(MOST, 2)
    generator = torch.Generator().manual_seed(0)
    bits = bptt.Bernoulli(2).sample(o, 0.5, generator)
    torch.testing.assert_close(bits.mean(0), torch.sigmoid(2 * o[0]), rtol=0, atol=0.01)
    assert bptt.Bernoulli(2).sample(o[:1], 0.0).tolist() == [[1.0, 0.0]]
    numbers = bptt.Gaussian(2).sample(o, 0.5, generator)
    torch.testing.assert_close(numbers.std(0), torch.full((2,), 0.5), rtol=0.02, atol=0)
    assert torch.equal(bptt.Gaussian(2).sample(o[:1], 0.0), o[:1])


@pytest.mark.parametrize("maker", MAKERS)
def test_a_likelihood_is_made_again_from_its_config(maker: object) -> None:
    likelihood = maker()
    again = likelihood_from_config(likelihood.config())
    assert repr(again) == repr(likelihood)
    assert again.config() == likelihood.config()


def test_a_fixed_scale_is_not_trained() -> None:
    assert not bptt.Gaussian(2, scale="fixed").log_scale.requires_grad
    assert bptt.Gaussian(2).log_scale.requires_grad


def test_bits_may_be_booleans_or_whole_numbers() -> None:
    net = bptt.Network(bptt.Bernoulli(D), hidden=3)
    y = torch.randint(2, (T, B, D))
    assert torch.equal(net(y).nll, net(y.bool()).nll)
    assert torch.equal(net(y).nll, net(y.float()).nll)


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        (bptt.Bernoulli(1), torch.full((2, 1, 1), 0.5), "y has values from 0.5 to 0.5; expected 0"),
        (bptt.Bernoulli(1), torch.full((2, 1, 1), math.nan), "y has values from nan to nan"),
        (bptt.Bernoulli(2), torch.ones(2, 1, 1), r"y has shape \(2, 1, 1\).*= \(2, 1, 2\)"),
        (
            bptt.Gaussian(1),
            torch.tensor([[[0.0], [1.0]], [[2.0], [math.inf]]]),
            "y is inf at step 1 of sequence 1, dimension 0; expected finite numbers",
        ),
        (bptt.Gaussian(1), torch.ones(2, 1, 1).double(), "y has dtype torch.float64; expected"),
    ],
)
def test_what_lies_outside_the_support_is_refused(
    likelihood: bptt.Likelihood, y: Tensor, message: str
) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Network(likelihood, hidden=2)(y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bptt.Bernoulli(0), "the number of dimensions d is 0"),
        (lambda: bptt.Gaussian(-1), "the number of dimensions d is -1"),
        (lambda: bptt.Gaussian(1, scale="none"), "scale is 'none'; expected one of 'learned'"),
        (lambda: likelihood_from_config({"kind": "poisson"}), "likelihood is 'poisson'; expected"),
    ],
)
def test_bad_arguments(make: object, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        make()
