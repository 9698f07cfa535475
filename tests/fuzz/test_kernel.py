"""Random calls of the kernel's layers against the plain loop: every layout, every input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bptt
from bptt.cells import by_name
from bptt.cells.by_name import Given
from bptt.cells.looped import Loop
from bptt.kernel import binding
from bptt.kernel.layout import Layout
from bptt.kernel.ops import run_plainly
from tests.fuzz.campaign import fuzz
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
def inputs(draw: st.DrawFn, cell: str, loop: Loop, layout: Layout, sizes: tuple[int, ...]) -> Given:
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
    arguments = data.draw(inputs(cell, Loop(), layout, sizes))
    arguments = arguments._replace(h0=numbers(sizes[1], sizes[3]))
    expected = results(by_name.layer(cell, arguments, layout, run=run_plainly), list(arguments))
    check(results(by_name.layer(cell, arguments, layout), list(arguments)), expected)


@fuzz(weight=1)
@given(st.data())
def test_looped_layers(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 999)))
    cell, sizes = data.draw(st.sampled_from(["tanh", "relu"])), data.draw(sizes_of())
    H, layout = sizes[3], data.draw(layouts(*sizes[:2]))
    more = sorted(data.draw(st.sets(st.integers(2, 9), max_size=2)))
    leak = torch.rand(H).double().requires_grad_() if data.draw(st.booleans()) else None
    norm = (numbers(H), numbers(H)) if H > 1 and data.draw(st.booleans()) else (None, None)
    loop = Loop((1, *more), leak, *norm)
    arguments = data.draw(inputs(cell, loop, layout, sizes))
    tensors = [*arguments, *loop[1:]]
    plain = by_name.looped_layer(cell, arguments, loop, layout, run=run_plainly)
    expected = results(plain, tensors)
    check(results(by_name.looped_layer(cell, arguments, loop, layout), tensors), expected)


@fuzz(weight=1)
@given(st.data())
def test_what_does_not_fit_never_reaches_the_kernel(data: st.DataObject) -> None:
    """One tensor has another shape, or another kind of numbers: torch's error, ours, or a value."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    cell, sizes = data.draw(st.sampled_from(["tanh", "gru"])), data.draw(sizes_of())
    layout = data.draw(layouts(*sizes[:2]))
    arguments = data.draw(inputs(cell, Loop(), layout, sizes))
    arguments = arguments._replace(h0=numbers(sizes[1], sizes[3]))
    names = [name for name, t in arguments._asdict().items() if t is not None]
    name = data.draw(st.sampled_from(names))
    tensor = getattr(arguments, name).detach()
    changed = data.draw(
        st.sampled_from(
            [
                tensor[..., 1:],
                tensor[1:],
                torch.cat([tensor, tensor]),
                torch.cat([tensor, tensor], -1),
                tensor.unsqueeze(0),
                tensor.flatten(),
                tensor.float() if tensor.is_floating_point() else tensor.int(),
                tensor * 1000 if not tensor.is_floating_point() else tensor.half(),
                tensor.to("meta"),
            ]
        )
    )
    broken = arguments._replace(**{name: changed})
    try:
        expected = by_name.layer(cell, broken, layout, run=run_plainly)
    except Exception:  # noqa: BLE001 (whatever it is that torch says)
        with pytest.raises((RuntimeError, IndexError, TypeError, bptt.BpttError)):
            by_name.layer(cell, broken, layout)
        return
    if any(t.is_meta for t in expected):
        return
    try:
        got = by_name.layer(cell, broken, layout)
    except bptt.BpttError:
        return  # as for a batch that torch would broadcast
    for mine, its in zip(got, expected, strict=True):
        near = FLOAT64 if its.dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(mine, its, **near)
