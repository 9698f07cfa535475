"""The kernel of loops with delays, a leak and a normalisation, against its plain twin."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from bptt.cells.looped import LoopParts
from bptt.kernel import binding
from bptt.kernel.layout import DENSE, Layout
from bptt.kernel.ops import run_plainly
from tests.covering import pairs
from tests.kernel import one_layer
from tests.kernel.one_layer import Given
from tests.kernel.test_ops import LAYOUTS, layout_of, pytestmark, way  # noqa: F401
from tests.oracles import FLOAT32, FLOAT64

Run = Callable[..., tuple[Tensor, Tensor]]
LOOPS = [
    ((1,), True, False),
    ((1, 3), False, False),
    ((1,), False, True),
    ((1, 2, 6), True, True),
]
"""Delays, whether there is a leak, and whether a normalisation."""


plain_looped_layer = partial(one_layer.looped_layer, run=run_plainly)


def tensors(
    layout: Layout,
    sizes: tuple[int, int, int],
    loop: tuple[tuple[int, ...], bool, bool],
    *,
    dtype: torch.dtype = torch.float64,
    columns: int | None = 3,
) -> list[Tensor | None]:
    """Return x, U, W, b_ih, h0, leak, gain and shift; without columns, x is projected already."""
    (T, B, H), (delays, has_leak, is_normed) = sizes, loop
    K = H if columns is None else columns
    shape = (T, B, K) if layout.batch_sizes is None else (int(layout.batch_sizes.sum()), K)
    made = [
        torch.randn(shape),
        None if columns is None else torch.randn(H, K) / 2,
        torch.randn(H, len(delays) * H) / math.sqrt(2 * H),
        None if columns is None else torch.randn(H),
        torch.randn(delays[-1], B, H),
        torch.rand(H) if has_leak else None,
        *([torch.randn(H), torch.randn(H)] if is_normed else [None, None]),
    ]
    return [None if t is None else t.to(dtype).requires_grad_() for t in made]


def call(run: Callable[..., tuple[Tensor, Tensor]], cell: str, delays: tuple[int, ...]) -> Run:
    def with_tensors(*given: Tensor | None, layout: Layout = DENSE) -> tuple[Tensor, Tensor]:
        x, U, W, b, h0, leak, gain, shift = given
        return run(cell, Given(x, U, W, b, None, h0), LoopParts(delays, leak, gain, shift), layout)

    return with_tensors


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(
        got.double() / scale, expected / scale, rtol=0, atol=20 * tolerance["atol"]
    )


@functools.cache
def answers(
    loop: tuple[tuple[int, ...], bool, bool], kind: str, dtype: torch.dtype
) -> list[tuple[str, Layout, list[Tensor | None], list[Tensor], list[Tensor]]]:
    """Return cells, layouts, inputs and gradients, and the reference's results in float64.

    As in test_ops, they are the same for every build and number of threads.
    """
    found = []
    # Of two units a normalisation leaves +1 and −1, whose gradient is rounding alone: so three.
    sizes = [(1, 1, 3), (9, 5, 7), (7, 17, 33), (4, 3, 130)]
    for size, cell, columns, reverse in pairs(sizes, ["tanh", "relu"], [None, 3], [False, True]):
        layout = layout_of(kind, *size[:2], reverse)
        given = tensors(layout, size, loop, dtype=dtype, columns=columns)
        exact = [None if t is None else t.detach().double().requires_grad_() for t in given]
        plain = call(plain_looped_layer, cell, loop[0])(*exact, layout=layout)
        grads = [torch.randn_like(out) for out in plain]
        slopes = torch.autograd.grad(plain, [t for t in exact if t is not None], grads)
        expected = [part.detach() for part in (*plain, *slopes)]
        found.append((cell, layout, given, [grad.to(dtype) for grad in grads], expected))
    return found


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_reference(
    loop: tuple[tuple[int, ...], bool, bool],
    kind: str,
    dtype: torch.dtype,
) -> None:
    for cell, layout, given, grads, expected in answers(loop, kind, dtype):
        mine = call(one_layer.looped_layer, cell, loop[0])(*given, layout=layout)
        got = torch.autograd.grad(mine, [t for t in given if t is not None], grads)
        for a, b in zip((*mine, *got), expected, strict=True):
            assert_close(a, b, dtype)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_last_states_are_those_that_a_second_call_goes_on_from(
    loop: tuple[tuple[int, ...], bool, bool],
) -> None:
    T, B, H = 11, 3, 5
    x, *weights = tensors(DENSE, (T, B, H), loop)
    resets = torch.rand(T, B) < 0.2
    run = call(one_layer.looped_layer, "tanh", loop[0])
    U, W, b, _, *more = weights
    whole, end = run(x, *weights, layout=Layout(resets=resets))
    for cut in range(1, T):
        first, between = run(x[:cut], *weights, layout=Layout(resets=resets[:cut]))
        second, last = run(x[cut:], U, W, b, between, *more, layout=Layout(resets=resets[cut:]))
        torch.testing.assert_close(torch.cat([first, second]), whole, **FLOAT64)
        torch.testing.assert_close(last, end, **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_first_and_second_derivatives_by_finite_differences(
    loop: tuple[tuple[int, ...], bool, bool], kind: str
) -> None:
    layout = layout_of(kind, 4, 2)
    given = tensors(layout, (4, 2, 3), loop)
    there = [t for t in given if t is not None]

    def run(*some: Tensor) -> tuple[Tensor, Tensor]:
        left = iter(some)
        filled = [None if t is None else next(left) for t in given]
        return call(one_layer.looped_layer, "tanh", loop[0])(*filled, layout=layout)

    assert torch.autograd.gradcheck(run, there, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, there, fast_mode=True)


@pytest.mark.parametrize("loop", LOOPS)
def test_any_subset_of_gradients(loop: tuple[tuple[int, ...], bool, bool]) -> None:
    given = tensors(DENSE, (6, 3, 5), loop)
    run = call(one_layer.looped_layer, "tanh", loop[0])
    there = [i for i, t in enumerate(given) if t is not None]
    every = torch.autograd.grad(run(*given)[0].sum(), [given[i] for i in there])
    for left_out in there:
        some = [t if i != left_out or t is None else t.detach() for i, t in enumerate(given)]
        asked = [i for i in there if i != left_out]
        got = torch.autograd.grad(run(*some)[0].sum(), [some[i] for i in asked])
        for i, grad in zip(asked, got, strict=True):
            torch.testing.assert_close(grad, every[there.index(i)], **FLOAT64)


@pytest.mark.parametrize("loop", LOOPS)
def test_transforms_of_torch_func_and_forward_mode(
    loop: tuple[tuple[int, ...], bool, bool],
) -> None:
    x, *rest = (None if t is None else t.detach() for t in tensors(DENSE, (4, 2, 3), loop))

    def of(run: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
        return lambda x: call(run, "tanh", loop[0])(x, *rest)[0]

    mine, its = of(one_layer.looped_layer), of(plain_looped_layer)
    tangent = torch.randn_like(x)
    for transform in (
        torch.func.jacrev,
        torch.func.jacfwd,
        lambda f: torch.func.hessian(lambda x: f(x).square().sum()),
        lambda f: lambda x: torch.func.jvp(f, (x,), (tangent,))[1],
        lambda f: lambda x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    ):
        expected = transform(its)(x)
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(transform(mine)(x), expected, **FLOAT64)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("cell", ["tanh", "relu"])
def test_with_w_alone_it_is_the_plain_layer(kind: str, cell: str) -> None:
    layout = layout_of(kind, 8, 4)
    x, U, W, b, h0, *_ = tensors(layout, (8, 4, 5), ((1,), False, False))
    h, (last,) = one_layer.looped_layer(cell, Given(x, U, W, b, None, h0), layout=layout)
    expected = one_layer.layer(cell, Given(x, U, W, b, None, h0[0]), layout)
    torch.testing.assert_close((h, last), expected, **FLOAT64)
    grads = torch.randn_like(h), torch.randn_like(last)
    given = [x, U, W, b, h0]
    got = torch.autograd.grad((h, last), given, grads)
    torch.testing.assert_close(got, torch.autograd.grad(expected, given, grads), **FLOAT64)


def test_threads_change_no_bit_of_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "WORK_FOR_A_THREAD", 0)
    layout = layout_of("packed", 20, 13)
    given = tensors(layout, (20, 13, 40), LOOPS[3], dtype=torch.float32)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(call(one_layer.looped_layer, "tanh", LOOPS[3][0])(*given, layout=layout)[0])
    assert all(torch.equal(found[0], other) for other in found[1:])
