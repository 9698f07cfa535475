"""Which of n is drawn, by weights and a number."""

from __future__ import annotations

import pytest
import torch

import bptt
from bptt.kernel import ops
from bptt.kernel.choice import choose


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.0, 1), (0.9, 1), (1.0, 2), (2.9, 2), (3.0, 4), (6.9, 4), (7.0, 4)]
)
def test_it_is_the_first_up_to_which_the_weights_exceed_the_share(
    share: float, chosen: int
) -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.0, 4.0])
    assert int(choose(weights, torch.tensor(share / 7).double())) == chosen


def test_each_comes_as_often_as_its_weight_says() -> None:
    weights, n = torch.tensor([1.0, 0.0, 5.0, 2.0]), 80_000
    shares = torch.arange(n) / n
    chosen = choose(weights.expand(n, 4), shares)
    torch.testing.assert_close(chosen.bincount() / n * 8, weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("native", [True, False])
def test_what_is_rare_beside_much_is_not_lost(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 50,000 that together come once in 400 times none gets the others' share."""
    if not native:
        monkeypatch.setattr(ops, "native", lambda *_: "not here")
    n = 50_000
    net = bptt.Network(bptt.Categorical(n), hidden=1)
    with torch.no_grad():
        net.readout.weight.zero_()
        net.readout.bias.fill_(-16.8)
        net.readout.bias[0] = 0
    drawn = net.generate(4000, generator=torch.Generator().manual_seed(0)).flatten()
    rare = drawn[drawn > 0]
    assert 3 <= len(rare) <= 25
    assert len(rare.unique()) == len(rare)
