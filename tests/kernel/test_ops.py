"""The native kernel against its plain twin: values, every gradient, every build, every layout."""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy
import pytest
import torch
from torch import Tensor, library

import bptt
from bptt.kernel import binding, compiled, ops
from bptt.kernel.compiled import CompiledStep
from bptt.kernel.layout import DENSE, Layout, Packing
from bptt.kernel.ops import run_plainly
from bptt.kernel.record import Traced
from tests.covering import pairs
from tests.kernel import one_layer
from tests.kernel.one_layer import Given
from tests.oracles import FLOAT32, FLOAT64

CELLS = ("tanh", "relu", "gru")
LAYOUTS = ("dense", "packed", "resets", "packed resets")
Run = Callable[..., tuple[Tensor, Tensor]]

HAS_COMPILER = shutil.which(os.environ.get("CXX", "c++")) is not None
pytestmark = pytest.mark.skipif(
    binding.native is None and not HAS_COMPILER, reason="no compiler here, so no native kernel"
)


@pytest.fixture(params=binding.INSTRUCTION_SETS)
def build(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use each instruction set that this processor has in turn."""
    best = binding.native.instruction_set()
    if not binding.native.use(request.param):
        pytest.skip(f"this processor cannot run the build for {request.param}")
    yield request.param
    binding.native.use(best)


@pytest.fixture(params=[*((name, 1) for name in binding.INSTRUCTION_SETS), ("best", 2)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use each instruction set in turn, and the best one with two threads, however small the work.

    What nothing was written to does not look like zero.
    """
    build, threads = request.param
    best = binding.native.instruction_set()
    if build != "best" and not binding.native.use(build):
        pytest.skip(f"this processor cannot run the build for {build}")
    torch.set_num_threads(threads)
    monkeypatch.setattr(binding, "WORK_FOR_A_THREAD", 0)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)
    binding.native.use(best)


def native(cell: str, layout: Layout) -> Run:
    return lambda *given: one_layer.layer(cell, Given(*given), layout)


def plain(cell: str, layout: Layout) -> Run:
    return lambda *given: one_layer.layer(cell, Given(*given), layout, run=run_plainly)


def layout_of(kind: str, T: int, B: int, reverse: bool = False) -> Layout:
    sizes, shape = None, (T, B)
    if "packed" in kind:
        lengths = torch.randint(0, T + 1, (B,)).clamp(min=min(1, T))
        lengths[0] = T
        sizes = (torch.arange(T).unsqueeze(1) < lengths).sum(1)
        shape = (int(sizes.sum()),)
    resets = torch.rand(shape) < 0.3 if "resets" in kind else None
    return Layout(sizes, resets, reverse)


def inputs(
    cell: str,
    layout: Layout,
    T: int,
    B: int,
    H: int,
    dtype: torch.dtype,
    *,
    inputs: int | None = None,
    tokens: bool = False,
) -> list[Tensor | None]:
    """Return x, U, W, b_ih, b_hh and h0, for so many inputs; where None, x is projected already."""
    G = 3 * H if cell == "gru" else H
    K = G if inputs is None else inputs
    shape = (T, B, K) if layout.batch_sizes is None else (int(layout.batch_sizes.sum()), K)
    made: list[Tensor | None] = [
        torch.randn(shape),
        None if inputs is None else torch.randn(G, K) / math.sqrt(max(K, 1)),
        torch.randn(G, H) / math.sqrt(H),
        None if inputs is None else torch.randn(G),
        None if inputs is None and cell != "gru" else torch.randn(G),
        torch.randn(B, H),
    ]
    given = [None if tensor is None else tensor.to(dtype).requires_grad_() for tensor in made]
    if tokens:
        given[0] = torch.randint(-1, K, shape[:-1])
    return given


def tensors(given: list[Tensor | None]) -> list[Tensor]:
    """Return those that can have a gradient."""
    return [tensor for tensor in given if tensor is not None and tensor.is_floating_point()]


def results(run: Run, given: list[Tensor | None], grads: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return h, the last states, and the gradient of every input."""
    outputs = run(*given)
    return [*outputs, *torch.autograd.grad(outputs, tensors(given), grads)]


SIZES = [(1, 1, 1), (50, 5, 7), (7, 17, 33), (5, 3, 130), (3, 26, 64), (3, 2, 261)]
ENTER = [(None, False), (1, False), (290, False), (9, True)]
Answer = tuple[Layout, list[Tensor | None], tuple[Tensor, Tensor], list[Tensor]]


@functools.cache
def answers(cell: str, kind: str, dtype: torch.dtype) -> list[Answer]:
    """Return layouts, inputs and gradients, and the reference's results in float64.

    Every build and number of threads is compared with these: the reference, which loops over the
    steps in Python, takes most of the time.
    """
    found = []
    for (T, B, H), (columns, tokens), reverse in pairs(SIZES, ENTER, (False, True)):
        layout = layout_of(kind, T, B, reverse)
        given = inputs(cell, layout, T, B, H, dtype, inputs=columns, tokens=tokens)
        exact = [
            t if t is None or not t.is_floating_point() else t.detach().double().requires_grad_()
            for t in given
        ]
        outputs = plain(cell, layout)(*exact)
        grads = tuple(torch.randn_like(output) for output in outputs)
        expected = [part.detach() for part in results(plain(cell, layout), exact, grads)]
        found.append((layout, given, tuple(grad.to(dtype) for grad in grads), expected))
    return found


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_reference(cell: str, kind: str, dtype: torch.dtype) -> None:
    for layout, given, grads, expected in answers(cell, kind, dtype):
        got = results(native(cell, layout), given, grads)
        for mine, its in zip(got, expected, strict=True):
            scale = max(1.0, float(its.detach().abs().max())) if its.numel() else 1.0
            tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
            torch.testing.assert_close(
                mine.double() / scale, its / scale, rtol=0, atol=10 * tolerance["atol"]
            )


@pytest.mark.parametrize("cell", CELLS)
def test_no_steps_change_nothing(cell: str) -> None:
    given = inputs(cell, DENSE, 0, 4, 5, torch.float32)
    h, last = native(cell, DENSE)(*given)
    assert h.shape == (0, 4, 5)
    (h.sum() + last.sum()).backward()
    assert torch.equal(last, given[-1])
    assert torch.equal(given[-1].grad, torch.ones(4, 5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("steps", [20, 2])  # matrices are packed, and read as they lie
def test_threads_change_no_bit(cell: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "WORK_FOR_A_THREAD", 0)
    layout = layout_of("packed", steps, 13)
    given = inputs(cell, layout, steps, 13, 40, torch.float32)
    grads = tuple(torch.randn_like(output) for output in native(cell, layout)(*given))
    found = []
    for threads in (1, 2, 3, 3):
        torch.set_num_threads(threads)
        found.append(results(native(cell, layout), given, grads))
    for other in found[1:]:  # h, the last states, and the gradients of x and h0
        for i in (0, 1, 2, -1):
            assert torch.equal(found[0][i], other[i])
    # Weights' gradients are summed over threads: the same for the same number of them.
    assert all(torch.equal(a, b) for a, b in zip(found[2], found[3], strict=True))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_first_and_second_derivatives_by_finite_differences(cell: str, kind: str) -> None:
    layout = layout_of(kind, 4, 3)
    given = inputs(cell, layout, 4, 3, 2, torch.float64, inputs=2)
    run = native(cell, layout)
    assert torch.autograd.gradcheck(run, given, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, given, fast_mode=True)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=6)))
def test_any_subset_of_gradients(cell: str, wanted: tuple[bool, ...]) -> None:
    given = inputs(cell, DENSE, 6, 3, 5, torch.float64, inputs=4)
    asked = [t for t, needed in zip(given, wanted, strict=True) if needed]
    expected = torch.autograd.grad(plain(cell, DENSE)(*given)[0].sum(), given)
    some = [t if needed else t.detach() for t, needed in zip(given, wanted, strict=True)]
    h, last = native(cell, DENSE)(*some)
    assert h.requires_grad == last.requires_grad == any(wanted)
    if asked:
        got = iter(torch.autograd.grad(h.sum(), asked))
        for needed, its in zip(wanted, expected, strict=True):
            if needed:
                torch.testing.assert_close(next(got), its, **FLOAT64)


@pytest.mark.parametrize("cell", CELLS)
def test_memory_need_not_be_contiguous(cell: str) -> None:
    given = inputs(cell, DENSE, 6, 4, 5, torch.float64, inputs=3)
    strided = [
        t.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_() for t in tensors(given)
    ]
    assert not any(t.is_contiguous() for t in strided)
    grads = (torch.randn(6, 5, 4).double().mT, torch.randn(5, 4).double().mT)
    expected = results(plain(cell, DENSE), given, grads)
    torch.testing.assert_close(results(native(cell, DENSE), strided, grads), expected, **FLOAT64)


@pytest.mark.parametrize("cell", CELLS)
def test_transforms_of_torch_func_and_forward_mode(cell: str) -> None:
    given = [tensor.detach() for tensor in inputs(cell, DENSE, 4, 2, 3, torch.float64, inputs=2)]
    p, rest = given[0], given[1:]

    def of(run: Run) -> Callable[[Tensor], Tensor]:
        return lambda p: run(p, *rest)[0]

    mine, its = of(native(cell, DENSE)), of(plain(cell, DENSE))
    tangent = torch.randn_like(p)
    for transform in (
        torch.func.jacrev,
        torch.func.jacfwd,
        lambda f: torch.func.hessian(lambda p: f(p).square().sum()),
        lambda f: lambda p: torch.func.jvp(f, (p,), (tangent,))[1],
        lambda f: lambda p: torch.func.vmap(f)(torch.stack([p, 2 * p])),
        lambda f: torch.func.grad(lambda p: f(p).square().sum()),
    ):
        expected = transform(its)(p)
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(transform(mine)(p), expected, **FLOAT64)


def test_compiles_without_a_graph_break_and_shards() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernel.compiled"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[-1]
        == "8 layers compiled to one operation each, 2 transforms inside; sharded ones"
    )


@pytest.mark.parametrize(
    ("cell", "kind", "enter"), pairs(CELLS, LAYOUTS, [(None, False), (3, False), (4, True)])
)
def test_registered_operation_is_well_behaved(
    cell: str, kind: str, enter: tuple[int | None, bool]
) -> None:
    layout, (columns, tokens) = layout_of(kind, 6, 4), enter
    rest = (layout.batch_sizes, layout.resets, layout.reverse)
    given = Given(*inputs(cell, layout, 6, 4, 5, torch.float64, inputs=columns, tokens=tokens))
    step = one_layer.recipe(cell, given)
    traced = ops.native(step, given.source(cell), (given.h0,), layout)
    assert isinstance(traced, Traced)
    there = [t for t in step.tensors if t is not None]
    present = tuple(t is not None for t in step.tensors)
    place = compiled.register(CompiledStep(traced, present, lambda: traced, ()))
    arguments = (place, *given.source(cell), [given.h0], there, *rest)
    library.opcheck(torch.ops.bptt.loop.default, arguments)


def test_arrays_in_large_pages_hold_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = bptt.LSTM(3, 300), torch.randn(40, 30, 3)
    found = []
    for least in (0, 1 << 60):
        monkeypatch.setattr(binding, "LARGE", least)
        h, last = layer(x)
        found.append([h, *last, *torch.autograd.grad(h.square().sum(), list(layer.parameters()))])
    for large, small in zip(*found, strict=True):
        assert torch.equal(large, small)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_go_through_as_in_torch(nonlinearity: str, value: float) -> None:
    theirs = torch.nn.RNN(3, 4, nonlinearity=nonlinearity, bias=False)
    x = torch.randn(5, 2, 3)
    x[2, 1, 0] = value
    W = theirs.weight_hh_l0.detach().requires_grad_()
    p = (x @ theirs.weight_ih_l0.T).detach().requires_grad_()
    expected, _ = theirs(x)
    h, _ = one_layer.layer(nonlinearity, Given(p, None, W, None, None, torch.zeros(2, 4)))
    torch.testing.assert_close(h, expected, equal_nan=True, **FLOAT32)
    expected.sum().backward()
    h.sum().backward()
    torch.testing.assert_close(W.grad, theirs.weight_hh_l0.grad, equal_nan=True, **FLOAT32)


def ulps(got: Tensor, exact: Tensor) -> float:
    """Return the largest error in units in the last place of the exact result."""
    spacing = torch.finfo(got.dtype).eps * 2 ** exact.abs().clamp(min=1e-300).log2().floor()
    spacing = spacing.clamp(min=torch.finfo(got.dtype).smallest_normal * torch.finfo(got.dtype).eps)
    return float(((got.to(exact.dtype) - exact).abs() / spacing).max())


def native_tanh(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    name = str(x.dtype).removeprefix("torch.")
    getattr(binding.native, f"tanh_{name}")(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def test_tanh_is_within_3_ulp_over_float32(build: str) -> None:
    everything = torch.arange(0, 2**31, 293, dtype=torch.int32)  # every 293rd number from 0 to NaN
    x = everything.view(torch.float32)
    x = x[x.isfinite()]
    y = native_tanh(x)
    assert ulps(y, x.double().tanh()) < 3
    assert torch.equal(native_tanh(-x), -y)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])
    assert str(native_tanh(special).tolist()) == "[0.0, -0.0, 1.0, -1.0, nan]"


def test_tanh_is_within_2_ulp_in_float64(build: str) -> None:
    x = torch.cat(
        [torch.logspace(-300, 2, 400_001).double(), torch.linspace(0, 20, 400_001).double()]
    )
    x = torch.cat([x, torch.rand(400_000).double()])
    exact = torch.from_numpy(numpy.tanh(x.numpy().astype(numpy.longdouble)).astype(float))
    assert ulps(native_tanh(x), exact) < 2
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan]).double()
    assert str(native_tanh(special).tolist()) == "[0.0, -0.0, 1.0, -1.0, nan]"


def test_works_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "WORK_FOR_A_THREAD", 0)
    given = [t.detach() for t in inputs("tanh", DENSE, 50, 8, 64, torch.float64, inputs=3)]
    expected, _ = native("tanh", DENSE)(*given)  # the threads of this call are not in the child
    context = multiprocessing.get_context("fork")
    equal = context.Value("i", -1)

    def in_the_child() -> None:
        h, _ = native("tanh", DENSE)(*given)
        equal.value = int(h.numpy().tobytes() == expected.numpy().tobytes())

    child = context.Process(target=in_the_child)
    child.start()
    child.join(timeout=60)
    assert (child.exitcode, equal.value) == (0, 1)


def test_packing_goes_there_and_back() -> None:
    lengths = torch.tensor([2, 0, 5, 3])
    alive = torch.arange(6).unsqueeze(1) < lengths
    packing, rows = Packing.of(alive), torch.randn(6, 4, 3)
    packed = packing.pack(rows)
    theirs = torch.nn.utils.rnn.pack_padded_sequence(
        rows[:, [0, 2, 3]], lengths[[0, 2, 3]], enforce_sorted=False
    )
    assert torch.equal(packed, theirs.data)
    assert torch.equal(packing.layout.batch_sizes, theirs.batch_sizes)
    assert torch.equal(packing.unpack(packed, 6), rows * alive.unsqueeze(-1))
    states = torch.randn(2, 4, 3)
    assert torch.equal(packing.unsort(packing.sort(states)), states)


def test_info_and_the_environment() -> None:
    assert bptt.kernel.info()["kernel"] in binding.INSTRUCTION_SETS
    with pytest.raises(bptt.BpttError, match="BPTT_INSTRUCTION_SET is 'sse9'; expected one of"):
        binding._choose("sse9")
