"""Exact in bounded memory: every plan gives what keeping everything gives."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import bptt
from bptt.gradient.exact import chunks
from bptt.gradient.exact.plan import Plan
from bptt.gradient.exact.schedule import reruns
from bptt.gradient.exact.sweep import sweep
from bptt.gradient.sequences import Sequences
from bptt.model.state import Regime
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, UsersLSTM, flat_gradient, make

EXACT = {"rtol": 0.0, "atol": 1e-11}
CPU = torch.device("cpu")


MORE = 20_000
"""Bytes above the least that a budget may have, for several chunks of the small networks here."""


def plans(T: int) -> Iterator[Plan]:
    """Yield every chunk length with every number of states held."""
    for chunk in range(1, T + 1):
        for room in range(math.ceil(T / chunk)):
            yield Plan(T, chunk, room, None)


def least_memory(net: torch.nn.Module, y: Any, x: Any = None, **options: Any) -> int:
    """Return what the message for a budget that is too small names."""
    with pytest.raises(bptt.BpttError) as caught:
        bptt.backward(net, y, x=x, **options, memory=1)
    return int(str(caught.value).split("at least ")[1].split(", which")[0].replace(",", ""))


@pytest.mark.parametrize(
    ("looped", "ragged", "layers"), pairs(RECURRENT_CELLS, [False, True], [1, 2])
)
def test_every_plan_is_exact_and_runs_what_it_predicts(
    looped: tuple[str, str], ragged: bool, layers: int
) -> None:
    (recurrence, cell), T = looped, 5
    net, y, x = make(recurrence, cell, T, layers=layers)
    lengths = torch.tensor([5, 3, 0]) if ragged else None
    hidden = net.fresh_state(3).hidden
    leaves = [x, *net.parameters()]
    leaves += [] if hidden is None else list(torch.utils._pytree.tree_leaves(hidden))
    for leaf in leaves:
        leaf.requires_grad_()
    out = net(y, x=x, state=bptt.State(hidden), lengths=lengths)
    expected = torch.autograd.grad(out.nll.sum(), leaves, allow_unused=True)
    for plan in plans(T):
        x.grad = None
        net.zero_grad()
        sequences = Sequences.checked(y, x, Regime(lengths), None, CPU)
        with (
            mock.patch.object(chunks, "with_graph", wraps=chunks.with_graph) as run,
            mock.patch.object(chunks, "without_graph", wraps=chunks.without_graph) as rerun,
        ):
            swept = sweep(net, sequences, bptt.State(hidden), plan, 1.0)
        assert run.call_count == plan.chunks
        assert rerun.call_count == plan.reruns == reruns(plan.chunks, plan.snapshots)
        got = [sequences.grad_x, *(p.grad for p in net.parameters())]
        got += [] if hidden is None else chunks.gradients(swept.first.hidden)
        for mine, theirs in zip(got, expected, strict=True):
            assert (mine is None) == (theirs is None)
            torch.testing.assert_close(mine, theirs, **EXACT) if mine is not None else None
        torch.testing.assert_close(swept.loss, out.nll.sum().detach(), **EXACT)
        torch.testing.assert_close(swept.after, chunks.detach(out.state), **EXACT)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_users_own_module_with_dropout_and_integers_in_its_state(dropout: float) -> None:
    net = UsersLSTM(dropout).double()
    y = torch.randint(5, (150, 2))
    before = torch.get_rng_state()
    done = bptt.backward(net, y)
    after = torch.get_rng_state()
    expected = flat_gradient(net).clone()
    net.zero_grad()
    torch.set_rng_state(before)
    again = bptt.backward(net, y, memory=least_memory(net, y) + 100_000)
    torch.testing.assert_close(flat_gradient(net), expected, **EXACT)
    torch.testing.assert_close(again.state, done.state, **EXACT)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("plan", [Plan(150, 10, 14, None), Plan(150, 7, 2, None)])
def test_dropout_drops_the_same_when_a_chunk_is_run_again(plan: Plan) -> None:
    net = UsersLSTM(0.5).double()
    y = torch.randint(5, (150, 2))
    sequences = Sequences.checked(y, None, Regime(), None, CPU)
    gradients = []
    for each in (Plan.full(150), plan):
        torch.manual_seed(3)
        net.zero_grad()
        sweep(net, sequences, None, each, 1.0)
        gradients.append(flat_gradient(net).clone())
    torch.testing.assert_close(*gradients, **EXACT)


class Watched(np.memmap):
    """Notes which rows are read."""

    longest = 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            Watched.longest = max(Watched.longest, len(rows))
        return np.asarray(super().__getitem__(index))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_a_mapped_file_is_read_a_chunk_at_a_time(tmp_path: Path, dtype: str) -> None:
    T = 4000
    net, y, x = make("both", T=T, B=2)
    y.numpy().astype(dtype).tofile(tmp_path / "y")
    x.numpy().tofile(tmp_path / "x")
    mapped = Watched(tmp_path / "y", dtype, "r", shape=(T, 2))
    inputs = Watched(tmp_path / "x", "float64", "r", shape=(T, 2, 3))
    done = bptt.backward(net, y, x=x)
    expected = flat_gradient(net).clone()
    net.zero_grad()
    Watched.longest = 0
    again = bptt.backward(net, mapped, x=inputs, memory="200kB")
    torch.testing.assert_close(flat_gradient(net), expected, **EXACT)
    assert float(again.loss) == pytest.approx(float(done.loss))
    assert Watched.longest < T / 4
    net.zero_grad()
    bptt.backward(net, mapped, x=inputs, window=20, stride=5, memory="200kB")
    truncated = flat_gradient(net).clone()
    net.zero_grad()
    bptt.backward(net, y, x=x, window=20, stride=5)
    torch.testing.assert_close(truncated, flat_gradient(net), **EXACT)


def test_the_gradient_reaches_an_encoder_and_a_learned_first_state() -> None:
    net, y, x = make("both", "gru", T=200, B=2)
    encoder = torch.nn.Linear(3, 3).double()
    h0 = torch.randn(4).double().requires_grad_()
    leaves = [h0, *encoder.parameters(), *(p for p in net.parameters() if p.requires_grad)]

    def state() -> bptt.State:
        return bptt.State(h0.expand(1, 2, 4))

    net(y, x=encoder(x), state=state()).nll.mean().backward()
    expected = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    least = least_memory(net, y, encoder(x), state=state())
    bptt.backward(net, y, x=encoder(x), state=state(), memory=least + MORE)
    torch.testing.assert_close([leaf.grad for leaf in leaves], expected, **EXACT)


@pytest.mark.parametrize(
    ("error", "options", "has_gradient"),
    pairs(
        [KeyboardInterrupt, MemoryError, RuntimeError],
        [
            {"memory": MORE},
            {"window": 20},
            {"window": 20, "stride": 5},
            {"memory": MORE, "window": 390},
        ],
        [False, True],
    ),
)
def test_whatever_is_raised_half_way_leaves_every_grad_as_it_was(
    has_gradient: bool, options: dict[str, Any], error: type[BaseException]
) -> None:
    net, y, x = make("both", T=400, B=2)
    encoder = torch.nn.Linear(3, 3).double()
    raw = x.clone().requires_grad_()
    leaves = [raw, *encoder.parameters(), *net.parameters()]
    if has_gradient:
        bptt.backward(net, y, x=encoder(raw))
    if "memory" in options:  # so much more than the least
        rest = {name: value for name, value in options.items() if name != "memory"}
        least = least_memory(net, y, encoder(raw), **rest)
        options = {**rest, "memory": least + options["memory"]}
    before = [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]
    objects = [leaf.grad for leaf in leaves]
    calls = 0

    def fail_at_the_third(grad: Tensor) -> None:
        nonlocal calls
        calls += grad.abs().sum() > 0
        if calls == 3:
            assert not has_gradient or not torch.equal(net.readout.weight.grad, before[-2])
            raise error("half way")

    hook = net.readout.weight.register_post_accumulate_grad_hook(
        lambda p: fail_at_the_third(p.grad)
    )
    with pytest.raises(error):
        bptt.backward(net, y, x=encoder(raw), **options)
    hook.remove()
    assert calls == 3
    for leaf, was, its_object in zip(leaves, before, objects, strict=True):
        assert leaf.grad is its_object
        assert leaf.grad is None or torch.equal(leaf.grad, was)
    done = bptt.backward(net, y, x=encoder(raw), **options)  # and it can go on
    assert done.loss.isfinite()


def test_a_nan_found_by_torchs_anomaly_mode_leaves_every_grad_as_it_was() -> None:
    net, y, x = make("both", T=200, B=2)
    bptt.backward(net, y, x=x)
    before = flat_gradient(net).clone()
    x[30] = math.nan
    with (
        pytest.warns(UserWarning, match="Anomaly Detection|Error detected"),
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        bptt.backward(net, y, x=x, memory="200kB")
    assert torch.equal(flat_gradient(net), before)


def test_nothing_is_left_in_memory_after_an_error() -> None:
    net, y, x = make("both", T=200, B=2)
    gc.collect()
    with pytest.raises(bptt.BpttError):
        bptt.backward(net, torch.full_like(y, 99), x=x, memory="200kB")
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([[1, 2]], None), "y is a list; expected a tensor or a numpy array"),
        ((None, None), "y is missing; expected the targets of the loss"),
        ((torch.zeros(3, dtype=torch.int64), None), r"y has shape \(3,\); expected \(T, B\)"),
        ((torch.zeros(3, 1, dtype=torch.int64), "x"), "x is 'x'; expected a tensor or"),
    ],
)
def test_bad_input(data: tuple[Any, ...], message: str) -> None:
    net, *_ = make("both", with_x=False)
    with pytest.raises(bptt.BpttError, match=message):
        bptt.backward(net, data[0], x=data[1])


class Odd(torch.nn.Module):
    """Not called like a Network."""

    def __init__(self, returns: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.returns = returns

    def forward(self, y: Tensor, x: Tensor | None = None, *, state: Any = None) -> Any:
        return self.returns(self.weight * torch.ones(y.shape))


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda nll: nll, "Odd returned a Tensor; expected the nll and the state"),
        (lambda nll: (nll.sum(), None), r"nll that the model returned has shape \(\).*\(3, 1\)"),
    ],
)
def test_a_module_that_is_not_called_like_a_network(returns: Any, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.backward(Odd(returns), torch.zeros(3, 1, dtype=torch.int64))
