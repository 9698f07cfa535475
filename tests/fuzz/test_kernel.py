"""Random calls of the kernel's layers against the plain loop: every layout, every input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bptt
from bptt.cells.looped import LoopParts
from bptt.kernel import binding
from bptt.kernel.layout import Layout
from bptt.kernel.ops import run_plainly
from tests.fuzz.campaign import fuzz
from tests.kernel import one_layer
from tests.kernel.one_layer import Given
from tests.oracles import FLOAT64

pytestmark = pytest.mark.skipif(binding.native is None, reason="the native kernel is not built")


@st.composite
def layouts(draw: st.DrawFn, T: int, B: int) -> Layout:
    sizes, shape = None, (T, B)
    if draw(st.booleans()):
        sizes = torch.tensor(sorted(draw(st.lists(st.integers(0, B), min_size=T, max_size=T))))
        sizes = sizes.flip(0).clamp(min=0)
        sizes[0] = B
        shape = (int(sizes.sum()),)
    resets = torch.rand(shape) < 0.3 if draw(st.booleans()) else None
    return Layout(sizes, resets, draw(st.booleans()))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


@st.composite
def inputs(
    draw: st.DrawFn, cell: str, loop: LoopParts, layout: Layout, sizes: tuple[int, ...]
) -> Given:
    T, B, I, H = sizes  # noqa: E741
    G, D = (3 * H if cell == "gru" else H), loop.delays[-1]
    rows = (T, B) if layout.batch_sizes is None else (int(layout.batch_sizes.sum()),)
    W, h0 = numbers(G, H * len(loop.delays)), numbers(D, B, H)
    form = draw(st.sampled_from(["projected", "numbers", "tokens"]))
    bias = draw(st.booleans())
    if form == "projected":
        return Given(numbers(*rows, G), None, W, None, numbers(G) if cell == "gru" else None, h0)
    b_ih, b_hh = (numbers(G), numbers(G)) if bias else (None, None)
    x = numbers(*rows, I) if form == "numbers" else torch.randint(-1, I, rows)
    return Given(x, numbers(G, I), W, b_ih, b_hh, h0)


def results(outputs: tuple[Tensor, ...], tensors: list[Tensor | None]) -> list[Tensor]:
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    loss = sum(((k + 1) * output.square()).sum() for k, output in enumerate(outputs))
    grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [*outputs, *grads]


def check(got: list[Tensor], expected: list[Tensor]) -> None:
    for mine, its in zip(got, expected, strict=True):
        scale = max(1.0, float(its.detach().abs().max())) if its.numel() else 1.0
        torch.testing.assert_close(mine / scale, its / scale, **FLOAT64)


@st.composite
def sizes_of(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.integers(1, most)) for most in (7, 9, 5, 37))


@fuzz(weight=2)
@given(st.data())
def test_layers(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    cell, sizes = data.draw(st.sampled_from(["tanh", "relu", "gru"])), data.draw(sizes_of())
    layout = data.draw(layouts(*sizes[:2]))
    arguments = data.draw(inputs(cell, LoopParts(), layout, sizes))
    arguments = arguments._replace(h0=numbers(sizes[1], sizes[3]))
    expected = results(one_layer.layer(cell, arguments, layout, run=run_plainly), list(arguments))
    check(results(one_layer.layer(cell, arguments, layout), list(arguments)), expected)


@fuzz(weight=1)
@given(st.data())
def test_looped_layers(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    cell, sizes = data.draw(st.sampled_from(["tanh", "relu"])), data.draw(sizes_of())
    H, layout = sizes[3], data.draw(layouts(*sizes[:2]))
    more = sorted(data.draw(st.sets(st.integers(2, 9), max_size=2)))
    leak = torch.rand(H).double().requires_grad_() if data.draw(st.booleans()) else None
    norm = (numbers(H), numbers(H)) if H > 1 and data.draw(st.booleans()) else (None, None)
    loop = LoopParts((1, *more), leak, *norm)
    arguments = data.draw(inputs(cell, loop, layout, sizes))
    tensors = [*arguments, *loop[1:]]
    plain = one_layer.looped_layer(cell, arguments, loop, layout, run=run_plainly)
    expected = results(plain, tensors)
    check(results(one_layer.looped_layer(cell, arguments, loop, layout), tensors), expected)


Change = Callable[[Tensor], Tensor]
CHANGES: tuple[Change, ...] = (
    lambda t: t[..., 1:],
    lambda t: t[1:],
    lambda t: torch.cat([t, t]),
    lambda t: torch.cat([t, t], -1),
    lambda t: t.unsqueeze(0),
    lambda t: t.expand(2, *t.shape),
    lambda t: t[0],
    lambda t: t.flatten(),
    lambda t: t.mT.contiguous() if t.ndim > 1 else t.flip(0),
    lambda t: t.float() if t.is_floating_point() else t.int(),
    lambda t: t.half() if t.is_floating_point() else t * 1000,
    lambda t: t.to("meta"),
)


def outcome(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...] | Exception:
    """Return what it computes, or raises.

    What one raises is then no context of what the other does: hypothesis tells failures apart by
    that too.
    """
    try:
        return run()
    except Exception as error:  # noqa: BLE001 (whatever it is that torch says)
        return error


def check_what_does_not_fit(
    cell: str, arguments: Given, loop: LoopParts | None, layout: Layout, name: str, change: Change
) -> None:
    """Change one tensor: the plain loop's error or value, or a BpttError. loop: None for none."""
    inside = loop is not None and name in loop._fields
    changed = change(getattr(loop if inside else arguments, name).detach())
    if loop is not None and inside:
        loop = loop._replace(**{name: changed})
    else:
        arguments = arguments._replace(**{name: changed})

    def run(**how: Any) -> tuple[Tensor, ...]:
        if loop is None:
            return one_layer.layer(cell, arguments, layout, **how)
        return one_layer.looped_layer(cell, arguments, loop, layout, **how)

    expected, got = outcome(lambda: run(run=run_plainly)), outcome(run)
    if isinstance(got, bptt.BpttError):
        return  # as for a batch that torch would broadcast
    if isinstance(expected, Exception):
        assert isinstance(got, RuntimeError | IndexError | TypeError), got
        return
    assert isinstance(got, tuple), got
    if changed.is_meta:
        return  # it has no numbers
    for mine, its in zip(got, expected, strict=True):
        near = FLOAT64 if its.dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(mine, its, **near)


def tensors_of(arguments: Given, loop: LoopParts | None) -> list[str]:
    """Return the names of the tensors that there are."""
    named = arguments._asdict() | ({} if loop is None else loop._asdict())
    return [name for name, t in named.items() if isinstance(t, Tensor)]


@fuzz(weight=1)
@given(st.data())
def test_what_does_not_fit_never_reaches_the_kernel(data: st.DataObject) -> None:
    """One tensor has another shape, or another kind of numbers."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    cell, sizes = data.draw(st.sampled_from(["tanh", "gru"])), data.draw(sizes_of())
    layout = data.draw(layouts(*sizes[:2]))
    loop = None
    if cell == "tanh" and data.draw(st.booleans()):
        more = sorted(data.draw(st.sets(st.integers(2, 4), max_size=2)))
        H = sizes[3]
        loop = LoopParts((1, *more), torch.rand(H).double(), numbers(H), numbers(H))
    arguments = data.draw(inputs(cell, loop or LoopParts(), layout, sizes))
    if loop is None:
        arguments = arguments._replace(h0=numbers(sizes[1], sizes[3]))
    name = data.draw(st.sampled_from(tensors_of(arguments, loop)))
    change = data.draw(st.sampled_from(CHANGES))
    check_what_does_not_fit(cell, arguments, loop, layout, name, change)


@pytest.mark.parametrize("delays", [None, (1,), (1, 3)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("one", [False, True])
def test_each_tensor_changed_in_each_way(
    delays: tuple[int, ...] | None, packed: bool, one: bool
) -> None:
    """Of sizes that are all different, and all 1, where most things fit."""
    T, B, I, H = (1, 1, 1, 1) if one else (4, 3, 2, 5)  # noqa: E741
    layout = Layout(torch.tensor([B] * (T - 1) + [1])) if packed else Layout()
    rows = (B * (T - 1) + 1,) if packed else (T, B)
    W, loop = numbers(H, H * len(delays or (1,))), None
    if delays is not None:
        loop = LoopParts(delays, torch.rand(H).double(), numbers(H), numbers(H))
    h0 = numbers(B, H) if delays is None else numbers(delays[-1], B, H)
    for x in (numbers(*rows, I), torch.randint(-1, I, rows)):
        arguments = Given(x, numbers(H, I), W, numbers(H), numbers(H), h0)
        for name, change in itertools.product(tensors_of(arguments, loop), CHANGES):
            check_what_does_not_fit("tanh", arguments, loop, layout, name, change)
