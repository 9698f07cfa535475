"""What each likelihood says of outputs: its NLL, its mean, its samples, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import bptt
from bptt.kernel import ops
from bptt.model.likelihoods.likelihood import likelihood_from_config
from bptt.model.likelihoods.quantiles import log_gamma_quantile, poisson_quantile
from tests.oracles import FLOAT64, distribution

T, B, D = 4, 3, 2
MAKERS = [
    lambda: bptt.Categorical(5),
    lambda: bptt.Bernoulli(D),
    lambda: bptt.Gaussian(D),
    lambda: bptt.Gaussian(D, scale="fixed"),
    lambda: bptt.Laplace(D),
    lambda: bptt.StudentT(D),
    lambda: bptt.Poisson(D),
    lambda: bptt.NegativeBinomial(D),
    lambda: bptt.Beta(D),
    lambda: bptt.GaussianMixture(D, components=3),
]
MOST = 50_000


def make(maker: object) -> tuple[bptt.Likelihood, Tensor, Tensor]:
    """Return a likelihood, outputs and a y that fits it."""
    likelihood = maker().double()
    for parameter in likelihood.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, mean=1.5, std=0.5)  # tails that are not too heavy
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
    torch.manual_seed(0)
    likelihood, o, _ = make(maker)
    p = distribution(likelihood, o[0, :1])
    drawn = likelihood.sample(o[0, :1].expand(MOST, -1), generator=torch.Generator().manual_seed(1))
    rows = drawn if drawn.is_floating_point() else torch.nn.functional.one_hot(drawn, 5).double()
    mean = likelihood.mean(o[0, 0])
    is_symbol = isinstance(likelihood, bptt.Categorical)
    variance = mean * (1 - mean) if is_symbol else p.variance[0]
    torch.testing.assert_close(mean, p.probs[0] if is_symbol else p.mean[0], **FLOAT64)
    error = 5 * (variance / MOST).sqrt()
    assert bool(((rows.mean(0) - mean).abs() < error).all())
    torch.testing.assert_close(rows.var(0), variance, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("maker", MAKERS[4:])
def test_the_likeliest_is_no_less_likely_than_what_is_drawn(maker: object) -> None:
    torch.manual_seed(0)
    likelihood, o, _ = make(maker)
    best = likelihood.draw(o, likelihood.noise(T, B, o), 0.0)
    assert torch.equal(best, likelihood.draw(o, likelihood.noise(T, B, o), 0.0))
    if isinstance(likelihood, bptt.Beta | bptt.GaussianMixture):  # the mean: of the likeliest part
        assert bool(likelihood.nll(o, best).isfinite().all())
        return
    for _ in range(20):
        drawn = likelihood.draw(o, likelihood.noise(T, B, o))
        assert bool((likelihood.nll(o, best) <= likelihood.nll(o, drawn) + 1e-9).all())


def test_pen_strokes_are_two_numbers_that_depend_on_each_other_and_a_bit() -> None:
    torch.manual_seed(0)
    K, likelihood = 2, bptt.PenStrokes(components=2).double()
    o = torch.randn(T, B, likelihood.outputs).double()
    logits, *kinds = o[..., :-1].split(K, dim=-1)
    means, (s_1, s_2) = torch.stack(kinds[:2], -1), (kinds[2].exp(), kinds[3].exp())
    cross = torch.tanh(kinds[4]) * s_1 * s_2
    covariance = torch.stack([s_1**2, cross, cross, s_2**2], -1).unflatten(-1, (2, 2))
    plane = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.MultivariateNormal(means, covariance),
    )
    bit = torch.distributions.Bernoulli(logits=o[..., -1])
    y = torch.randn(T, B, 3).double()
    y[..., 2] = (y[..., 2] > 0).double()
    expected = -plane.log_prob(y[..., :2]) - bit.log_prob(y[..., 2])
    torch.testing.assert_close(likelihood.nll(o, y), expected, **FLOAT64)
    mean = torch.cat([plane.mean, bit.mean.unsqueeze(-1)], -1)
    torch.testing.assert_close(likelihood.mean(o), mean, **FLOAT64)
    drawn = likelihood.sample(o[0, :1].expand(MOST, -1), generator=torch.Generator().manual_seed(1))
    within = covariance[0, 0] + means[0, 0].unsqueeze(-1) * means[0, 0].unsqueeze(-2)
    square = torch.einsum("k,kij->ij", logits[0, 0].softmax(-1), within)
    expected = square - torch.outer(plane.mean[0, 0], plane.mean[0, 0])
    torch.testing.assert_close(torch.cov(drawn[:, :2].T), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(drawn.mean(0), mean[0, 0], rtol=0, atol=0.05)
    assert set(drawn[:, 2].tolist()) == {0.0, 1.0}
    flat = bptt.PenStrokes(components=1)
    assert flat.nll(torch.full((1, 1, 7), 20.0), torch.ones(1, 1, 3)).isfinite()  # ρ is 1, nearly


@pytest.mark.parametrize("shape", [1e-3, 0.3, 1.0, 7.0, 1e4])
def test_quantiles_are_where_the_share_is(shape: float) -> None:
    share = torch.tensor([0.0, 1e-9, 0.03, 0.5, 0.99, 1.0]).double()
    log_x = log_gamma_quantile(share, torch.tensor(shape))
    assert bool(log_x.isfinite().all())
    inside = log_x > -700
    below = torch.special.gammainc(torch.tensor(shape).double(), log_x.exp())
    torch.testing.assert_close(below[inside], share[inside], rtol=1e-9, atol=1e-11)
    count = poisson_quantile(share, torch.tensor(shape))
    at = torch.special.gammaincc(count + 1, torch.tensor(shape).double())
    before = torch.where(
        count > 0, torch.special.gammaincc(count.clamp(min=1), torch.tensor(shape)), 0.0
    )
    assert bool((before <= share.clamp(min=1e-300)).all())
    assert bool((at > share - 1e-11).all())


def test_temperature() -> None:
    o = torch.tensor([[0.5, -1.0]]).expand(MOST, 2)
    generator = torch.Generator().manual_seed(0)
    bits = bptt.Bernoulli(2).sample(o, 0.5, generator)
    torch.testing.assert_close(bits.mean(0), torch.sigmoid(2 * o[0]), rtol=0, atol=0.01)
    assert bptt.Bernoulli(2).sample(o[:1], 0.0).tolist() == [[1.0, 0.0]]
    with pytest.raises(bptt.BpttError, match=r"is 0\.5 for Poisson; expected 1, for its"):
        bptt.Poisson(2).sample(o, 0.5)
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
        (
            bptt.Poisson(1),
            torch.full((2, 1, 1), 0.5),
            "y has values from 0.5 to 0.5; expected whole",
        ),
        (bptt.NegativeBinomial(1), torch.full((2, 1, 1), -1.0), "expected whole numbers from 0 on"),
        (
            bptt.Beta(1),
            torch.zeros(2, 1, 1),
            "y has values from 0 to 0; expected above 0 and below",
        ),
        (bptt.PenStrokes(), torch.full((2, 1, 3), 0.5), r"y\[..., 2\] has values from 0.5 to 0.5"),
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
        (lambda: bptt.GaussianMixture(2, components=0), "components is 0; expected"),
        (lambda: likelihood_from_config({"kind": "zipf"}), "likelihood is 'zipf'; expected one of"),
        (lambda: likelihood_from_config({"kind": "gaussian"}), "'gaussian' has other arguments"),
        (lambda: likelihood_from_config([]), "the likelihood is"),
    ],
)
def test_bad_arguments(make: object, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        make()


EVERYWHERE: dict[str, Callable[[bptt.Network, Tensor], Tensor]] = {
    "call": lambda net, y: net(y).nll,
    "lengths": lambda net, y: net(y, lengths=torch.tensor([4, 1, 0])).nll,
    "generate": lambda net, y: net.generate(3, prompt=y),
    "samples": lambda net, y: net(y, forcing=0.5).nll,
    "means": lambda net, y: net(y, forcing=0.0, feedback="mean").nll,
    "backward": lambda net, y: bptt.backward(net, y, window=2, forcing=0.5, feedback="mean").loss,
    "flow": lambda net, y: torch.from_numpy(
        bptt.gradient_flow(net, y, forcing=torch.zeros(T, B), feedback="mean").norms
    ),
    "exposure": lambda net, y: torch.from_numpy(bptt.exposure(net, y, steps=2).free),
}


@pytest.mark.parametrize("call", EVERYWHERE)
@pytest.mark.parametrize("maker", [*MAKERS[4:], lambda: bptt.PenStrokes(components=2)])
def test_they_go_everywhere(maker: object, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the kernel as without, which asks the likelihood at every step."""
    torch.manual_seed(0)
    likelihood, _, y = make(maker)
    net = bptt.Network(likelihood, hidden=3).double()
    torch.manual_seed(1)
    got = EVERYWHERE[call](net, y)
    assert bool(got[~got.isnan()].isfinite().all())
    assert bool(got.nan_to_num().any())
    monkeypatch.setattr(ops, "native", lambda *_: "not here")
    torch.manual_seed(1)
    torch.testing.assert_close(got, EVERYWHERE[call](net, y), equal_nan=True, **FLOAT64)
