"""A step as a program: traced, differentiated and run natively, against the plain loop of it."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bptt
from bptt.kernel import binding, ops
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe, run_plainly
from bptt.kernel.plain_loop import Parts
from bptt.kernel.program import ELEMENTWISE
from bptt.kernel.record import Traced
from tests.covering import pairs
from tests.kernel.steps_of_users import STEPS, on_parts, recipe
from tests.kernel.test_ops import layout_of, pytestmark, way  # noqa: F401

I = 3  # noqa: E741
TOLERANCE = {torch.float32: 3e-4, torch.float64: 1e-10}


def inputs(step: str, layout: Layout, sizes: tuple[int, int, int], dtype: torch.dtype) -> Any:
    """Return x, U, b, and the state's parts."""
    T, B, H = sizes
    P = STEPS[step].p * H
    rows = (T, B) if layout.batch_sizes is None else (int(layout.batch_sizes.sum()),)
    made = [torch.randn(*rows, I), torch.randn(P, I) / 2, torch.randn(P)]
    made += [torch.randn(B, width * H) for width in STEPS[step].parts]
    x, U, b, *parts = (t.to(dtype).requires_grad_() for t in made)
    return Source(x, U, b), tuple(parts)


def results(
    run: Callable[..., Any], of: Recipe, source: Source, state: Parts, layout: Layout
) -> list[Tensor]:
    """Return h, the last states, and the gradients of all that went in."""
    h, last = run(of, source, state, layout)
    outputs = [h, *last]
    weights = [torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view_as(o) for o in outputs]
    leaves = [t for t in (*source, *state, *of.tensors) if t is not None and t.requires_grad]
    reached = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    roots, seeds = zip(*reached, strict=True)
    grads = torch.autograd.grad(roots, leaves, seeds, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)]
    return [*(o.detach() for o in outputs), *zeros]


def doubled(of: Recipe, source: Source, state: Parts) -> tuple[Recipe, Source, Parts]:
    """Return the same in float64."""

    def exact(t: Tensor | None) -> Any:
        return None if t is None else t.detach().double().requires_grad_()

    tensors = tuple(map(exact, of.tensors))
    return of._replace(tensors=tensors), Source(*map(exact, source)), tuple(map(exact, state))


def natively(*arguments: Any) -> Any:
    """Run a step by the kernel, and nothing else."""
    traced = ops.native(*arguments)
    assert isinstance(traced, Traced), traced
    return ops.run(*arguments)


def assert_close(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for mine, its in zip(got, expected, strict=True):
        scale = max(1.0, float(its.abs().max())) if its.numel() else 1.0
        torch.testing.assert_close(
            mine.double() / scale, its.double() / scale, rtol=0, atol=TOLERANCE[dtype]
        )


CASES = pairs(
    ["dense", "packed", "resets", "packed resets"],
    [False, True],
    [(1, 1, 5), (2, 3, 4), (7, 3, 1), (7, 17, 33), (1, 17, 16), (7, 1, 130)],
    [torch.float32, torch.float64],
)


@functools.cache
def answers(step: str) -> list[tuple[Recipe, Source, Parts, Layout, list[Tensor]]]:
    """Return what the plain loop gives in float64, which takes most of the time, for all cases."""
    found = []
    for kind, reverse, sizes, dtype in CASES:
        torch.manual_seed(0)
        layout = layout_of(kind, *sizes[:2], reverse)
        of = recipe(step, sizes[2], dtype)
        source, state = inputs(step, layout, sizes, dtype)
        expected = results(run_plainly, *doubled(of, source, state), layout)
        found.append((of, source, state, layout, expected))
    return found


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("step", STEPS)
def test_equals_the_plain_loop(step: str) -> None:
    for of, source, state, layout, expected in answers(step):
        dtype = state[0].dtype
        assert_close(results(natively, of, source, state, layout), expected, dtype)
        with torch.no_grad():
            h, last = natively(of, source, state, layout)
        assert_close([h, *last], expected[: 1 + len(last)], dtype)


@pytest.mark.parametrize("step", STEPS)
def test_first_and_second_derivatives(step: str) -> None:
    torch.manual_seed(0)
    layout = layout_of("packed resets", 6, 3, False)
    of = recipe(step, 3, torch.float64)
    source, state = inputs(step, layout, (6, 3, 3), torch.float64)
    K = len(of.tensors)

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        moved = of._replace(tensors=leaves[:K])
        h, last = ops.run(moved, Source(*leaves[K : K + 3]), leaves[K + 3 :], layout)
        return h, *last

    leaves = (*of.tensors, *source[:3], *state)
    torch.autograd.gradcheck(run, leaves, fast_mode=True)
    torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def why(step: Callable[..., Any], *tensors: Tensor, parts: int = 1) -> str:
    """Return why a step of 4 units is not traced."""
    state = tuple(torch.zeros(2, 4) for _ in range(parts))
    of = Recipe(on_parts(lambda *_: step), tensors)
    found = ops.native(of, Source(torch.randn(5, 2, 4)), state)
    assert isinstance(found, str)
    h, _ = ops.run(of, Source(torch.randn(5, 2, 4)), state)  # by the plain loop
    assert h.shape == (5, 2, 4)
    return found


class Straight(torch.autograd.Function):
    """A sign whose gradient is that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class DetachedFunction(torch.autograd.Function):
    """A tanh whose gradient is half of what it should be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(y := torch.tanh(x))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y) / 2


def without_gradient(p: Tensor, h: Tensor) -> Tensor:
    with torch.no_grad():
        gate = torch.sigmoid(h)
    return gate * p


def in_place(p: Tensor, h: Tensor) -> Tensor:
    h = h.clone()
    h += p
    return h


def by_value(p: Tensor, h: Tensor) -> Tensor:
    return h + p if h.sum() > 0 else h - p


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "in place": (in_place, "add_ changes a tensor in place, in test_program.py"),
    "set item": (lambda p, h: (h.clone().fill_(0), p)[1] + h, "fill_ changes a tensor in place"),
    "by value": (by_value, "__bool__ reads values, in test_program.py"),
    "item": (lambda p, h: h + p * h.mean().item(), "item reads values"),
    "random": (lambda p, h: h + p * torch.rand_like(p), "random"),
    "dropout": (lambda p, h: torch.dropout(p + h, 0.5, True), "random"),
    "unknown": (lambda p, h: torch.cumsum(p + h, 1), "cumsum is no operation on rows"),
    "einsum of rows": (lambda p, h: h + torch.einsum("bk,bk->bk", p, h), "is not rows times"),
    "rows mixed": (lambda p, h: h + p.mean(0, keepdim=True), "mean"),
    "no gradient": (without_gradient, "not all that it does"),
    "own gradient": (lambda p, h: DetachedFunction.apply(p + h), "not all that it does"),
    "straight through": (lambda p, h: Straight.apply(p + h), "sign is no operation"),
    "whole products": (
        lambda p, h: h + (p.long() * p.long()).to(h.dtype),
        "mul gives torch.int64",
    ),
    "small whole": (lambda p, h: h + p.to(torch.int8).to(h.dtype), "to gives torch.int8"),
    "less exact": (lambda p, h: (p + h).to(torch.bfloat16).to(h.dtype), "to gives torch.bfloat16"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_program_runs_by_the_plain_loop_and_says_why(kind: str) -> None:
    step, words = REFUSED[kind]
    assert words in why(step)
    before = torch.get_rng_state()
    ops.program.cache_clear()
    ops.program(on_parts(lambda: step), (), (), (4, (4,), torch.float32, 1), None)
    assert torch.equal(torch.get_rng_state(), before)  # tracing draws nothing


MASK = torch.tensor([1.0, 0.0, 1.0, 0.0])


def test_what_is_done_with_tensors_before_the_step_is_done_anew_for_others() -> None:
    def made(W: Tensor) -> Callable[..., Any]:
        positive = W.detach().abs() if not W.requires_grad else W.abs()
        return lambda p, h: torch.tanh(p + h @ positive)

    arguments = (Source(torch.randn(5, 2, 4)), (torch.zeros(2, 4),))
    for wanted in (False, True):
        for _ in range(2):
            of = Recipe(on_parts(made), (torch.randn(4, 4, requires_grad=wanted),))
            h, _ = natively(of, *arguments)
            torch.testing.assert_close(h, run_plainly(of, *arguments)[0])


def test_tensors_that_a_step_is_not_made_of_are_not_taken_for_constants() -> None:
    assert "shape (4,) that it is not made of" in why(lambda p, h: (p + h) * MASK)


def test_a_step_that_is_refused_has_changed_nothing() -> None:
    count = torch.zeros(4)

    def counting(p: Tensor, h: Tensor) -> Tensor:
        count.add_(1)
        return p + h

    found = ops.program(on_parts(lambda: counting), (), (), (4, (4,), torch.float32, 1), None)
    assert isinstance(found, str)
    assert found.startswith("add_ changes a tensor in place")
    assert count.sum() == 0


def raising(p: Tensor, h: Tensor) -> Tensor:
    raise KeyError("of the user's own")


def test_an_error_of_the_step_is_the_users_to_see() -> None:
    of, source = Recipe(on_parts(lambda: raising), ()), Source(torch.randn(5, 2, 4))
    found = ops.native(of, source, (torch.zeros(2, 4),))
    assert isinstance(found, str)
    assert found.startswith("it raises KeyError: ")
    with pytest.raises(KeyError, match="of the user's own"):
        ops.run(of, source, (torch.zeros(2, 4),))


@pytest.mark.parametrize("beyond", [5.0, -6.0, 1e30, math.nan, math.inf])
def test_a_row_that_a_table_has_not_is_refused(beyond: float) -> None:
    def make(table: Tensor) -> Any:
        return lambda p, state: (state[0] + table[p[:, 0].long()],)

    of, start = Recipe(make, (torch.randn(5, 4),)), (torch.zeros(2, 4),)
    p = torch.tensor([[[0.0], [4.0]], [[-5.0], [2.5]], [[3.0], [1.0]]])
    traced = ops.native(of, Source(p), start)
    assert isinstance(traced, Traced)
    expected, _ = run_plainly(of, Source(p), start)
    assert_close([ops.run(of, Source(p), start)[0]], [expected], torch.float32)
    p[1, 1] = beyond
    with pytest.raises(bptt.BpttError, match=r"a row that its table has not, of tables of \[5\]"):
        ops.run(of, Source(p), start)


def test_a_state_for_fewer_sequences_than_there_are_is_refused() -> None:
    of, layout = recipe("lstm", 4, torch.float32), Layout(torch.tensor([5, 3]))
    source = Source(torch.randn(8, 16))
    with pytest.raises(bptt.BpttError, match="batch_sizes begin with 5, but the state has 2 rows"):
        ops.run(of, source, (torch.zeros(2, 4), torch.zeros(2, 4)), layout)


def test_parameters_may_be_replaced_and_their_values_changed() -> None:
    torch.manual_seed(0)
    source, state = inputs("masked", Layout(), (5, 2, 4), torch.float64)
    for _ in range(3):
        of = recipe("masked", 4, torch.float64)
        assert_close(
            results(natively, of, source, state, Layout()),
            results(run_plainly, of, source, state, Layout()),
            torch.float64,
        )
        with torch.no_grad():
            of.tensors[0].mul_(0.5)
        assert_close(
            results(natively, of, source, state, Layout()),
            results(run_plainly, of, source, state, Layout()),
            torch.float64,
        )


@pytest.mark.parametrize("cut", [1, 3, 5, 6])
def test_columns_that_are_cut_again_elsewhere(cut: int) -> None:
    def made(W: Tensor, v: Tensor) -> Callable[..., Any]:
        def step(p: Tensor, h: Tensor) -> Tensor:
            low, high = h[:, :cut], h[:, cut:]
            whole = torch.tanh(h) + torch.cat([high, low], dim=1) * h.sum(1, keepdim=True)
            a = h @ W
            whole = whole + v * torch.cat([a[:, cut:], a[:, :cut]], dim=1) * a.mean(1, keepdim=True)
            whole = whole * v + torch.cat([a[:, :cut] * v[:cut], a[:, cut:] * v[cut:]], dim=1)
            return 0.1 * (whole + p + torch.cat([torch.sigmoid(p[:, :2]), p[:, 2:]], dim=1))

        return step

    W, v = torch.randn(7, 7).double(), torch.randn(7).double()
    of = Recipe(on_parts(made), (W.requires_grad_(), v.requires_grad_()))
    x, h = torch.randn(6, 3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    arguments = (of, Source(x.requires_grad_()), (h.requires_grad_(),), Layout())
    assert_close(results(natively, *arguments), results(run_plainly, *arguments), torch.float64)


def test_what_is_detached_has_no_gradient() -> None:
    def made(W: Tensor) -> Callable[..., Any]:
        return lambda p, h: torch.tanh(p + (h @ W).detach() + h * h.detach() + W.detach()[0])

    of = Recipe(on_parts(made), (torch.randn(7, 7).double().requires_grad_(),))
    x, h = torch.randn(6, 3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    arguments = (of, Source(x.requires_grad_()), (h.requires_grad_(),), Layout())
    assert_close(results(natively, *arguments), results(run_plainly, *arguments), torch.float64)


UNARY = [torch.tanh, torch.sigmoid, torch.relu, torch.sin, torch.cos, torch.neg, torch.abs]
BINARY = [torch.add, torch.sub, torch.mul, torch.minimum, torch.maximum]


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_random_programs(data: st.DataObject) -> None:
    H, count = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    plan = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["unary", "binary", "product", "sum", "cut", "vector"]),
                st.integers(0, 6),
                st.integers(0, 50),
                st.integers(0, 50),
            ),
            min_size=1,
            max_size=12,
        )
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    W, v = torch.randn(H, H).double() / H, torch.randn(H).double()

    def made(W: Tensor, v: Tensor) -> Callable[..., Any]:
        def step(p: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            values = [p, *parts]
            for kind, which, a, b in plan:
                x, y = values[a % len(values)], values[b % len(values)]
                if kind == "unary":
                    x = UNARY[which](x)
                elif kind == "binary":
                    x = BINARY[which % len(BINARY)](x, y)
                elif kind == "product":
                    x = x @ (W if which % 2 else W.T)
                elif kind == "sum":
                    x = y * x.mean(1, keepdim=True)
                elif kind == "vector":
                    x = torch.lerp(x, y, v)
                else:
                    cut = which % H
                    x = torch.cat([x[:, cut:], y[:, :cut]], dim=1) if cut else x
                values.append(x)
            return tuple(torch.tanh(values[-1 - i % len(values)] + parts[i]) for i in range(count))

        return step

    of = Recipe(on_parts(made), (W.requires_grad_(), v.requires_grad_()))
    layout = layout_of(data.draw(st.sampled_from(["dense", "packed resets"])), 4, 3, False)
    rows = (4, 3) if layout.batch_sizes is None else (int(layout.batch_sizes.sum()),)
    x = torch.randn(*rows, H).double().requires_grad_()
    state = tuple(torch.randn(3, H).double().requires_grad_() for _ in range(count))
    arguments = (of, Source(x), state, layout)
    assert_close(results(natively, *arguments), results(run_plainly, *arguments), torch.float64)


FIRST_CALLS = """
import sys
import torch
from bptt.kernel import ops
from bptt.kernel.native_step import Source
from tests.kernel.steps_of_users import STEPS, recipe
for name, step in STEPS.items():
    of, state = recipe(name, 4, torch.float32), tuple(torch.zeros(2, 4 * w) for w in step.parts)
    h, _ = ops.run(of, Source(torch.randn(3, 2, 4 * step.p)), state)
    h.sum().backward()
print(sorted({"sympy", "torch._dynamo"} & set(sys.modules)))
"""


def test_the_first_call_of_a_step_imports_no_compiler() -> None:
    """Which would take longer than all else that tracing a step does."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_native_operations_have_the_numbers_of_the_programs() -> None:
    header = binding.__file__.replace("binding.py", "native/instructions.hpp")
    with open(header, encoding="utf-8") as file:
        text = file.read().split("enum Op {")[1].split("}")[0]
    names = [name.strip().lower() for name in text.split(",")]
    assert names[: len(ELEMENTWISE)] == list(ELEMENTWISE)
