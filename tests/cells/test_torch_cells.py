"""RNNCell, GRUCell and LSTMCell, against torch.nn's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils import prune

import bptt
from bptt.kernel import binding
from bptt.kernel.one_step import OneStep

CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
OPTIONS = [{}, {"bias": False}, {"dtype": torch.float64}]


def pair(kind: str, **options: object) -> tuple[nn.Module, bptt.Cell]:
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(3, 5, **options)
    torch.manual_seed(0)
    return theirs, getattr(bptt, kind)(3, 5, **options)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", OPTIONS)
def test_first_numbers_and_their_order(kind: str, options: dict[str, object]) -> None:
    theirs, ours = pair(kind, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("B", [None, 1, 4])
@pytest.mark.parametrize("has_state", [False, True])
def test_one_step(kind: str, options: dict[str, object], B: int | None, has_state: bool) -> None:
    theirs, ours = pair(kind, **options)
    dtype = options.get("dtype", torch.float32)
    lead = () if B is None else (B,)
    x = torch.randn(*lead, 3, dtype=dtype, requires_grad=True)
    parts = tuple(torch.randn(*lead, 5, dtype=dtype) for _ in ours.state_sizes)
    state = (parts if len(parts) > 1 else parts[0]) if has_state else None
    results = []
    for cell in (theirs, ours):
        moved = cell(x, state)
        moved = (moved,) if isinstance(moved, Tensor) else tuple(moved)
        loss = sum(part.square().sum() for part in moved)
        results.append([*moved, *torch.autograd.grad(loss, [x, *cell.parameters()])])
    for mine, its in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("kind", CELLS)
def test_a_layer_of_them_is_torchs_layer(kind: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn, kind.removesuffix("Cell"))(3, 5)
    ours = bptt.Recurrent(getattr(bptt, kind)(3, 5))
    weights = {name.removesuffix("_l0"): p for name, p in theirs.state_dict().items()}
    ours.cells[0].load_state_dict(weights)
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_nonlinearities(nonlinearity: str) -> None:
    theirs, ours = pair("RNNCell", nonlinearity=nonlinearity)
    x, h = torch.randn(2, 3), torch.randn(2, 5)
    torch.testing.assert_close(ours(x, h), theirs(x, h))
    layer = bptt.Recurrent(ours)
    torch.testing.assert_close(layer(x.unsqueeze(0), h.unsqueeze(0))[0][0], theirs(x, h))


def test_a_nonlinearity_that_there_is_not() -> None:
    with pytest.raises(bptt.BpttError, match="nonlinearity is 'sin'"):
        bptt.RNNCell(3, 5, nonlinearity="sin")


@pytest.mark.parametrize("kind", CELLS)
def test_a_pruned_cell_is_torchs(kind: str) -> None:
    theirs, ours = pair(kind)
    for cell in (theirs, ours):
        prune.l1_unstructured(cell, "weight_hh", 0.5)
    x = torch.randn(2, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    h, _ = bptt.Recurrent(ours)(x.unsqueeze(0))
    expected = theirs(x)
    torch.testing.assert_close(h[0], expected if isinstance(expected, Tensor) else expected[0])


@pytest.mark.parametrize("kind", CELLS)
def test_shapes_that_do_not_fit(kind: str) -> None:
    ours = getattr(bptt, kind)(3, 5)
    h = torch.zeros(2, 4) if kind != "LSTMCell" else (torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(bptt.BpttError, match=f"the state of a {kind} is"):
        ours(torch.zeros(2, 3), h)
    with pytest.raises(bptt.BpttError, match="x is a Tensor"):
        ours(torch.zeros(2, 4))


@pytest.mark.parametrize("kind", CELLS)
def test_one_step_has_every_derivative_and_transform(kind: str) -> None:
    _, cell = pair(kind, dtype=torch.float64)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)

    def move(x: Tensor, h: Tensor) -> Tensor:
        moved = cell(x, h if kind != "LSTMCell" else (h, h.cos()))
        return moved if isinstance(moved, Tensor) else torch.cat(moved, dim=1)

    torch.testing.assert_close(torch.func.vmap(move)(x[None], h[None]), move(x, h)[None])
    slopes = torch.autograd.functional.jacobian(move, (x, h))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(move, (0, 1))(x, h), slopes)
    assert torch.autograd.gradgradcheck(move, (x.requires_grad_(), h.requires_grad_()))


WITHOUT_GRADIENTS = [torch.no_grad, torch.inference_mode]


@pytest.mark.parametrize("without", WITHOUT_GRADIENTS)
@pytest.mark.parametrize("kind", [*CELLS, "relu"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("B", [1, 4, 33])
def test_a_step_without_a_gradient_is_native(
    kind: str, options: dict[str, Any], B: int, without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "relu":
        kind, options = "RNNCell", {**options, "nonlinearity": "relu"}
    theirs, ours = pair(kind, **options)
    made = {"dtype": options.get("dtype", torch.float32)}
    x, parts = torch.randn(B, 3, **made), [torch.randn(B, 5, **made) for _ in ours.state_sizes]
    state = tuple(parts) if len(parts) > 1 else parts[0]
    results, run = list[Any](), OneStep.__call__
    counted = lambda *call: results.append(run(*call)) or results[-1]  # noqa: E731
    monkeypatch.setattr(OneStep, "__call__", counted)
    with without():
        for _ in range(3):
            moved = ours(x, state)
            torch.testing.assert_close(moved, theirs(x, state))
            for cell in (ours, theirs):  # the weights of the moment, wherever they lie now
                cell.weight_hh.data = cell.weight_hh.data.clone().mul_(0.5)
        assert [one is None for one in results] == ([False] * 3 if binding.READS_TENSORS else [])
    assert not torch.equal(ours(x, state)[0], moved[0])
    with torch.no_grad():
        assert type(moved) is type(theirs(x, state))


@pytest.mark.parametrize("kind", CELLS)
def test_what_no_kernel_can_read_goes_by_torch(kind: str) -> None:
    theirs, ours = pair(kind)
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    state = (h, h) if kind == "LSTMCell" else h
    turned = torch.randn(3, 4).t()
    with torch.no_grad():
        expected = theirs(turned, state)
        torch.testing.assert_close(ours(turned, state), expected)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ours(x, state), theirs(x, state))
        for cell in (theirs, ours):
            cell.weight_hh.data = cell.weight_hh.data.t().contiguous().t()
        torch.testing.assert_close(ours(x, state), theirs(x, state))
        for cell in (theirs, ours):
            cell.bfloat16()
        half = (h.bfloat16(),) * 2 if kind == "LSTMCell" else h.bfloat16()
        torch.testing.assert_close(ours(x.bfloat16(), half), theirs(x.bfloat16(), half))
        with FakeTensorMode(allow_non_fake_inputs=True):
            moved = ours(torch.empty(4, 3).bfloat16(), half)
        assert type(moved if kind != "LSTMCell" else moved[0]) is FakeTensor


ODD = {
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "negated": torch._neg_view,
    "zeros": lambda x: torch._efficientzerotensor(*x.shape),
    "meta": lambda x: x.to("meta"),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "double": lambda x: x.double(),
    "wider": lambda x: torch.cat([x, x], 1),
    "turned": lambda x: x.t().contiguous().t(),
    "every other": lambda x: x.repeat_interleave(2, 0)[::2],
    "none": lambda x: x[:0],
    "one of a batch": lambda x: x[:1],
    "unbatched": lambda x: x[0],
}


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|nested tensors).*")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("which", ["x", "h"])
@pytest.mark.parametrize("kind", CELLS)
def test_odd_tensors_are_taken_as_torch_takes_them(kind: str, which: str, odd: str) -> None:
    theirs, ours = pair(kind)
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    x, h = (ODD[odd](x), h) if which == "x" else (x, ODD[odd](h))
    state = (h, h) if kind == "LSTMCell" else h
    with torch.no_grad():
        try:
            expected = theirs(x, state)
        except (RuntimeError, NotImplementedError, ValueError):
            with pytest.raises((RuntimeError, NotImplementedError, ValueError, bptt.BpttError)):
                ours(x, state)
        else:
            torch.testing.assert_close(ours(x, state), expected)


def test_the_kernel_looks_at_tensors_where_torch_lets_it() -> None:
    lets = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    assert (binding.native is not None and lets) == binding.READS_TENSORS


@pytest.mark.parametrize("kind", CELLS)
def test_weights_that_do_not_fit_are_refused_as_torch_refuses_them(kind: str) -> None:
    theirs, ours = pair(kind)
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    state = (h, h) if kind == "LSTMCell" else h
    for name in ("weight_hh", "weight_ih", "bias_ih", "bias_hh"):
        for cell in (theirs, ours):
            weight = getattr(cell, name)
            whole, weight.data = weight.data, weight.data[:-1]
            with torch.no_grad(), pytest.raises(RuntimeError):
                cell(x, state)
            weight.data = whole
    for name in ("bias_ih", "bias_hh"):  # torch adds the one that there is
        theirs, ours = pair(kind)
        setattr(theirs, name, None)
        setattr(ours, name, None)
        with torch.no_grad():
            torch.testing.assert_close(ours(x, state), theirs(x, state))
    freed = torch.randn(4, 3)
    freed.untyped_storage().resize_(0)
    with torch.no_grad(), pytest.raises((RuntimeError, bptt.BpttError)):
        ours(freed, state)


def test_a_subclass_with_an_operation_of_its_own_takes_that() -> None:
    class Halved(bptt.GRUCell):
        by_torch = staticmethod(lambda x, h, *weights: torch.gru_cell(x, h, *weights) / 2)

        def __init__(self, size: int) -> None:
            super().__init__(size, size)

    cell, x, h = Halved(5), torch.randn(4, 5), torch.randn(4, 5)
    moved = cell(x, h)
    with torch.no_grad():
        torch.testing.assert_close(cell(x, h), moved)
