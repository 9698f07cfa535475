"""bptt.plan: what it promises, and whether that is what is used."""

from __future__ import annotations

import gc
import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bptt
from bptt.gradient.exact.memory import Tally
from bptt.kernel.ops import ROWS_AT_ONCE
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, make

MORE, MIDDLE, LARGE = 10_000, 300_000, 40_000_000


@pytest.fixture(scope="module")
def net() -> bptt.Network:
    return bptt.Network(bptt.Categorical(65), hidden=16)


def test_takes_the_fastest_that_fits(net: bptt.Network) -> None:
    small = least_memory(net, 10_000, 1) + MORE
    plans = [bptt.plan(net, 10_000, 1, memory) for memory in (None, LARGE, MIDDLE, small)]
    assert [plan.kind for plan in plans] == ["full", "full", "two levels", "revolve"]
    assert plans[0] == plans[1]
    costs = [plan.recomputation for plan in plans]
    assert costs[0] == 0
    assert 0.8 < costs[2] < 1 < costs[3]


@given(st.integers(1, 3000), st.integers(1, 4), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_stays_within_the_budget(T: int, B: int, share: float) -> None:
    net = bptt.Network(bptt.Categorical(5), hidden=8)
    with pytest.raises(bptt.BpttError, match="expected at least"):
        bptt.plan(net, T, B, 1)
    most = bptt.plan(net, T, B).memory
    least = least_memory(net, T, B)
    assert least <= most
    budget = int(least + share * (most - least))
    plan = bptt.plan(net, T, B, budget)
    assert 0 < plan.memory <= budget
    assert plan.chunk * (plan.chunks - 1) < T <= plan.chunk * plan.chunks
    assert plan.snapshots < plan.chunks
    with pytest.raises(bptt.BpttError, match=f"expected at least {least:,}"):
        bptt.plan(net, T, B, least - 1)


def least_memory(net: bptt.Network, T: int, B: int) -> int:
    """Return what the message for a budget that is too small names."""
    with pytest.raises(bptt.BpttError) as caught:
        bptt.plan(net, T, B, 1)
    return int(str(caught.value).split("at least ")[1].split(", which")[0].replace(",", ""))


def test_more_memory_never_costs_time(net: bptt.Network) -> None:
    least = least_memory(net, 10_000, 2)
    budgets = range(least, least + 360_000, 10_000)
    costs = [bptt.plan(net, 10_000, 2, budget).recomputation for budget in budgets]
    assert all(later <= 1.2 * earlier for earlier, later in itertools.pairwise(costs))


@pytest.mark.parametrize(
    ("recurrence", "cell", "share"),
    pairs(
        ["hidden", "output", "both"],
        ["tanh", "relu", "gru", "lstm"],
        [1.0, 0.3, 0.15],
        allowed=lambda recurrence, cell, _: (recurrence, cell) in RECURRENT_CELLS,
    ),
)
def test_uses_what_it_says(recurrence: str, cell: str, share: float) -> None:
    T, B = 150, 64
    net, y, x = make(recurrence, cell, T, B, layers=2)
    bptt.backward(net, y, x=x)  # .grad, which is not counted, is there from now on
    budget = max(least_memory(net, T, B), int(share * bptt.plan(net, T, B).memory))
    plan = bptt.plan(net, T, B, budget)
    gc.collect()
    tally = Tally()
    with tally:
        bptt.backward(net, y, x=x, memory=budget)
    used = max(tally.curve)
    assert used <= 1.05 * plan.memory
    # Where no step waits for another, fewer rows than the kernel takes at once count as so many.
    if not plan.is_parallel or plan.chunk * B >= ROWS_AT_ONCE:
        assert 0.5 * plan.memory < used


def test_leaves_no_trace(net: bptt.Network) -> None:
    random = torch.get_rng_state()
    bptt.plan(net, 100, 1, "1MB")
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_says_what_it_does(net: bptt.Network) -> None:
    assert str(bptt.plan(net, 10_000, 1, MIDDLE)).startswith("two levels: 10,000 steps in ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"T": 0}, "T is 0; expected a whole number of at least 1"),
        ({"B": 1.5}, "B is 1.5; expected a whole number"),
        ({"memory": "lots"}, "memory is 'lots'; expected bytes, such as"),
        ({"memory": -5}, "memory is -5; expected bytes"),
        ({"memory": True}, "memory is True; expected bytes"),
        ({"memory": "1kB"}, r"memory is 1,000 bytes; expected at least [\d,]+, which one time"),
    ],
)
def test_bad_input(net: bptt.Network, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.plan(net, **{"T": 100, "B": 1, **arguments})


@pytest.mark.parametrize("steps", [1, 2, 5, 67])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("options", [{}, {"leak": 0.5, "skips": (3,)}, {"cell": "gru"}])
def test_the_budget_that_is_asked_for_is_enough(
    steps: int, window: int | None, options: dict[str, Any]
) -> None:
    net = bptt.Network(bptt.Bernoulli(2), hidden=3, layers=2, **options)
    y = torch.randint(2, (steps, 1, 2)).float()
    with pytest.raises(bptt.BpttError, match="expected at least") as refused:
        bptt.backward(net, y, memory=1, window=window)
    (least,) = re.findall(r"expected at least ([\d,]+)", str(refused.value))
    bptt.backward(net, y, memory=int(least.replace(",", "")), window=window)


def test_another_model_needs_data_to_be_run_on() -> None:
    with pytest.raises(bptt.BpttError, match="Linear; expected a Network, or y"):
        bptt.plan(torch.nn.Linear(1, 1), 100, 1)
