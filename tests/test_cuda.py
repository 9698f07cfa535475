"""All that runs on the CPU, on a GPU: the same numbers, and no tensor left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_leaves, tree_map

import bptt
from bptt.cells.registry import CELLS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

T, B, I, H, N = 9, 4, 3, 6, 5  # noqa: E741 (the equations' name)
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def on_gpu(of: Any) -> Any:
    if isinstance(of, nn.Module):
        return copy.deepcopy(of).cuda()
    kinds = (Tensor, PackedSequence)
    return tree_map(
        lambda leaf: leaf.cuda() if isinstance(leaf, kinds) else leaf,
        of,
        is_leaf=lambda leaf: isinstance(leaf, PackedSequence),
    )


def numbers(results: Any) -> list[Any]:
    leaves = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor | numpy.ndarray)]
    return [torch.as_tensor(leaf).detach().cpu() for leaf in leaves]


def check(do: Callable[..., Any], module: nn.Module, *data: Any) -> None:
    """Hold what is done, and every gradient of a module's, to what the CPU gives."""
    there, here = on_gpu(module), copy.deepcopy(module)
    on_cpu, of_gpu = do(here, *data), do(there, *on_gpu(data))
    assert numbers(on_cpu), "nothing is compared"
    torch.testing.assert_close(numbers(of_gpu), numbers(on_cpu), equal_nan=True, **CLOSE)
    for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(q.grad.cpu(), p.grad, **CLOSE, msg=name)


LAYERS = {
    "tanh": lambda **more: bptt.RNN(I, H, **more),
    "relu": lambda **more: bptt.RNN(I, H, nonlinearity="relu", **more),
    "gru": lambda **more: bptt.GRU(I, H, **more),
    "lstm": lambda **more: bptt.LSTM(I, H, **more),
    "projected": lambda **more: bptt.LSTM(I, H, proj_size=2, **more),
}


def train(layer: nn.Module, x: Any, *state: Any, **more: Any) -> Any:
    out, last = layer(x, *state, **more)
    rows = out.data if isinstance(out, PackedSequence) else out
    (rows.sin().sum() + sum(part.cos().sum() for part in tree_leaves(last))).backward()
    return rows, last


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer(name: str, bidirectional: bool) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=bidirectional).double()
    x, lengths = torch.randn(T, B, I).double(), torch.tensor([9, 7, 2, 2])
    check(train, layer, x)
    check(train, layer, pack_padded_sequence(x, lengths))
    check(lambda m, x, n: train(m, x, lengths=n), layer, x, lengths)
    check(lambda m, x, r: train(m, x, resets=r), layer, x, torch.rand(T, B) < 0.3)
    check(
        lambda m, x, n, r: train(m, x, lengths=n, resets=r),
        layer, x, lengths, torch.rand(T, B) < 0.3,
    )  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_a_cell(name: str) -> None:
    cells = [CELLS[name](I, H), CELLS[name](H, H)]
    layer, x = bptt.Recurrent(cells).double(), torch.randn(T, B, I).double()
    lengths, resets = torch.tensor([9, 1, 7, 2]), torch.rand(T, B) < 0.3
    check(train, layer, x)
    check(lambda m, x, n: train(m, x, lengths=n), layer, x, lengths)
    check(lambda m, x, r: train(m, x, resets=r), layer, x, resets)
    check(lambda m, x: m(x), layer.cells[0], x[0])
    twice = bptt.Recurrent(cells[:1], reverse=[CELLS[name](I, H)]).double()
    check(lambda m, x, n: train(m, x, lengths=n), twice, x, lengths)


def nets() -> list[Any]:
    """Return networks, each with y and x."""
    tokens, rows, x = torch.randint(N, (T, B)), torch.randn(T, B, 2), torch.randn(T, B, I)
    cases = []
    for cell in ("tanh", "gru", "lstm", "mingru"):
        cases.append(
            (bptt.Network(bptt.Categorical(N), hidden=H, cell=cell, layers=2), tokens, None)
        )
        cases.append((bptt.Network(bptt.Gaussian(2), inputs=I, hidden=H, cell=cell), rows, x))
    output = bptt.Network(bptt.Categorical(N), hidden=H, recurrence="output")
    both = bptt.Network(
        bptt.Gaussian(2), inputs=I, hidden=H, recurrence="both", leak=0.5, skips=[2]
    )
    cases += [(output, tokens, None), (both, rows, x)]
    return [
        (net.double(), *(t if t is None or t.dtype == torch.int64 else t.double() for t in data))
        for net, *data in cases
    ]


def loss(net: Any, y: Any, x: Any, **more: Any) -> Any:
    out = net(y, x=x, **more)
    out.nll.sum().backward()
    return out.nll, out.state


def plainly(net: Any, y: Any, x: Any) -> Any:
    """A derivative of a gradient, which torch's fused layers do not have."""
    with bptt.kernel.use("plain"):
        total = net(y, x=x).nll.sum()
    parameters = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(total, parameters, create_graph=True)
    sum(grad.square().sum() for grad in grads).backward()
    return total


LENGTHS = torch.tensor([9, 5, 2, 1])
WHAT = {
    "forward": loss,
    "lengths": lambda net, y, x: loss(net, y, x, lengths=LENGTHS.to(y.device)),
    "resets": lambda net, y, x: loss(net, y, x, resets=(torch.arange(T * B) % 5 == 0).view(T, B)),
    "memory": lambda net, y, x: bptt.backward(net, y, x=x, lengths=LENGTHS, memory=200_000).loss,
    "window": lambda net, y, x: bptt.backward(net, y, x=x, window=3, stride=2).loss,
    "flow": lambda net, y, x: vars(bptt.gradient_flow(net, y, x=x)),
    "jacobians": lambda net, y, x: vars(bptt.jacobians(net, y, x=x)),
    "plain": plainly,
    "lyapunov": lambda net, y, x: vars(bptt.lyapunov_exponents(net, y, x=x)),
}


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("case", range(len(nets())))
def test_a_network(case: int, what: str) -> None:
    net, y, x = nets()[case]
    check(WHAT[what], net, y, x)


@pytest.mark.parametrize("case", range(len(nets())))
def test_a_network_fed_with_its_own(case: int) -> None:
    net, y, x = nets()[case]
    if not y.is_floating_point():  # symbols have no mean of their own kind to feed back
        torch.testing.assert_close(on_gpu(net).generate(6, prompt=y.cuda()).shape, (6, B))
        on_gpu(net)(y.cuda(), forcing=0.5).nll.sum().backward()
        return

    def mean(net: Any, y: Any, x: Any) -> Any:
        out = net(y, x=x, forcing=0.0, feedback="mean")
        out.nll.sum().backward()
        return out.nll

    check(mean, net, y, x)


def test_training_moves_the_data(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be, or not to be, that is the question: " * 40)
    text = bptt.read_text(tmp_path / "text.txt")
    net = bptt.Network(bptt.Categorical(text.vocabulary.size), hidden=8, cell="gru").cuda()
    settings = bptt.Settings(max_updates=4, window=10, validate_every=2)
    done = bptt.fit(net, text, settings, out=tmp_path / "run")
    assert done.updates == 4
    assert all(p.is_cuda for p in net.parameters())
    saved = bptt.Run.open(tmp_path / "run").network()
    for one, other in zip(net.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize("name", ["tanh", "gru", "lstm"])
def test_torchs_layers_on_a_gpu_that_are_accelerated(name: str) -> None:
    kind = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[name]
    model = nn.Sequential(kind(I, H, num_layers=2)).cuda()
    x = torch.randn(T, B, I, device="cuda")
    before = model(x)
    torch.testing.assert_close(bptt.accelerate(model)(x), before)
    model.cpu()
    torch.testing.assert_close(
        tree_map(lambda t: t.cpu(), before), model(x.cpu()), rtol=1e-2, atol=1e-3
    )
    with torch.autocast("cuda", torch.bfloat16):
        assert model.cuda()(x)[0].dtype == kind(I, H).cuda()(x)[0].dtype


def test_watch_sees_a_layer_on_a_gpu() -> None:
    model, x = bptt.GRU(I, H).cuda(), torch.randn(T, B, I, device="cuda")
    with bptt.watch(model) as watched:
        model(x)[0].sum().backward()
    assert len(watched) == 1
