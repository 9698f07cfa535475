"""Truncated to a window, with a stride of its own, against the double sum cut accordingly."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bptt
from bptt.gradient.exact import truncation
from bptt.gradient.exact.truncation import windows
from tests import oracles
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, flat_gradient, make
from tests.oracles import FLOAT64

ALL = [
    (T, window, stride)
    for T in range(1, 7)
    for window in range(1, T + 1)
    for stride in range(1, window + 1)
]
IN_TURN = itertools.cycle(["hidden", "output", "both"])
"""Where a window ends does not depend on the recurrence: each window has one of them."""


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 9))
def test_every_loss_is_in_one_window_that_reaches_as_far_as_it_should(
    T: int, window: int, stride: int, group: int
) -> None:
    window, stride = min(window, T), min(stride, window, T)
    reach = oracles.reach(T, window, stride)
    counted = []
    for some in windows(T, window, stride, group):
        assert len(some.starts) <= group
        for start in some.starts:
            losses = range(start + some.first, start + some.steps)
            assert all(reach(j) == start for j in losses)
            counted += losses
    assert counted == list(range(T))


@pytest.mark.parametrize(
    ("recurrence", "T", "window", "stride"),
    [(recurrence, *case) for recurrence, case in zip(IN_TURN, ALL, strict=False)],
)
def test_equals_the_double_sum_cut_to_the_window(
    recurrence: str, T: int, window: int, stride: int
) -> None:
    net, y, x = make(recurrence, T=T)
    lengths = [T, (T + 1) // 2, T // 3]
    reach = oracles.reach(T, window, stride)
    loss, expected = oracles.double_sum(net, y, x, lengths, first=reach)
    done = bptt.backward(
        net, y, x=x, window=window, stride=stride, lengths=torch.tensor(lengths), reduction="sum"
    )
    assert float(done.loss) == pytest.approx(loss, abs=1e-10)
    torch.testing.assert_close(vars(oracles.gradients(net)), vars(expected), **FLOAT64)
    torch.testing.assert_close(done.state, net(y, x=x, lengths=torch.tensor(lengths)).state)


def one_by_one(
    net: bptt.Network,
    y: Tensor,
    x: Tensor,
    first: Callable[[int], int],
    state: bptt.State,
    w: Tensor,
) -> Tensor:
    """Return Σⱼ w·nll with hₖ a constant at the step first(j) that each loss reaches back to."""
    total = torch.zeros(())
    for j in range(len(y)):
        start = first(j)
        before = state
        if start > 0:
            with torch.no_grad():
                before = net(y[:start], x=x[:start], state=state).state
        nll = net(y[start : j + 1], x=x[start : j + 1], state=before).nll
        total = total + (nll[-1] * w[j]).sum()
    return total


@pytest.mark.parametrize(
    ("looped", "layers", "cut"),
    pairs(RECURRENT_CELLS, [1, 2], [(4, 1), (5, 3), (3, 3), (6, 2)]),
)
def test_every_cell_with_weights_and_the_gradients_of_x_and_the_first_state(
    looped: tuple[str, str], layers: int, cut: tuple[int, int]
) -> None:
    (recurrence, cell), (window, stride) = looped, cut
    net, y, x = make(recurrence, cell, T=11, layers=layers)
    w = torch.rand(11, 3).double()
    state = net.fresh_state(3)
    leaves = [] if state.hidden is None else list(torch.utils._pytree.tree_leaves(state.hidden))
    leaves = [x, *leaves, *(p for p in net.parameters() if p.requires_grad)]
    for leaf in leaves:
        leaf.requires_grad_()
    first = oracles.reach(11, window, stride)
    one_by_one(net, y, x, first, state, w).backward()
    expected = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    bptt.backward(
        net, y, x=x, state=state, window=window, stride=stride, loss_weights=w, reduction="sum"
    )
    torch.testing.assert_close([leaf.grad for leaf in leaves], expected, **FLOAT64)


@pytest.mark.parametrize("more", [0, 15_000, 1_000_000])
@pytest.mark.parametrize(("window", "stride"), list(itertools.product((5, 12), (1, 5))))
def test_a_budget_changes_nothing_but_the_grouping(more: int, window: int, stride: int) -> None:
    net, y, x = make("both", T=43, B=2)
    with pytest.raises(bptt.BpttError, match="expected at least") as refused:
        bptt.backward(net, y, x=x, window=window, stride=stride, memory=1)
    memory = more + int(re.findall(r"at least ([\d,]+)", str(refused.value))[0].replace(",", ""))
    bptt.backward(net, y, x=x, window=window, stride=stride)
    expected = flat_gradient(net).clone()
    net.zero_grad()
    with mock.patch("bptt.gradient.exact.truncation.sweep", wraps=truncation.sweep) as sweep:
        bptt.backward(net, y, x=x, window=window, stride=stride, memory=memory)
    torch.testing.assert_close(flat_gradient(net), expected, **FLOAT64)
    calls = sweep.call_count
    assert calls > 1


def test_windows_that_overlap_are_run_side_by_side() -> None:
    net, y, x = make("both", T=100, B=1)
    with mock.patch.object(net, "forward", wraps=net.forward) as forward:
        bptt.backward(net, y, x=x, window=10, stride=1)
    rows = [call.args[0].shape for call in forward.call_args_list]
    # The first 10 losses share a window; the other 90 have one each, which all start at 1 to 90.
    # Ten windows of 10 steps keep as many states as the exact gradient would.
    assert rows == [(10, 1)] + [(10, 10)] * 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 2}, "stride is 2 without a window; expected a window too"),
        ({"window": 3, "stride": 4}, "stride is 4; expected a whole number from 1 to 3"),
        ({"window": 3, "stride": 0}, "stride is 0; expected a whole number of at least 1"),
        ({"window": 3, "stride": 1, "memory": "1B"}, "memory is 1 bytes; expected at least"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str) -> None:
    net, y, x = make("both")
    with pytest.raises(bptt.BpttError, match=message):
        bptt.backward(net, y, x=x, **arguments)
    assert all(p.grad is None for p in net.parameters())
