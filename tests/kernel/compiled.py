"""torch.compile of the layers, mostly with fullgraph, and sharded ones: run by test_ops.py.

In one process of their own: what is compiled, and a process group, stay for a whole process.
"""

from __future__ import annotations

import copy
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import bptt
from bptt.errors import BpttError
from bptt.kernel import ops
from bptt.kernel.layout import Layout
from bptt.kernel.native_step import Source
from bptt.kernel.ops import Recipe
from bptt.training.remedies import Omega

calls: list[str] = []


def backend(graph: Any, examples: list[Tensor]) -> Any:
    """Trace and derive as the default backend does, without its compiler; note what is called."""
    calls.extend(str(node.target) for node in graph.graph.nodes)
    return torch._dynamo.lookup_backend("aot_eager")(graph, examples)


BACKEND = {"fullgraph": True, "backend": backend}


def gradients(layer: nn.Module, run: Any, x: Tensor) -> list[Tensor]:
    output, last = run(x)
    lasts = last if isinstance(last, tuple) else (last,)
    loss = output.square().sum() + sum(part.sum() for part in lasts)
    return [output, *lasts, *torch.autograd.grad(loss, [x, *layer.parameters()])]


def check_omega() -> None:
    """Compare a compiled network's Ω with the same network's as it is, and without it."""
    net, y = bptt.Network(bptt.Categorical(5), hidden=8, layers=2), torch.randint(5, (30, 2))
    compiled = torch.compile(net, backend=backend)
    for weight in (4.0, None, 2.0):
        found = []
        for run in (net, compiled):
            net.zero_grad()
            omega = nullcontext() if weight is None else Omega(net, weight, sequences=2)
            with omega:
                run(y).nll.sum().backward()
            found.append(net.recurrent.weight_hh_l0.grad)
            found.append(0.0 if weight is None else omega.value)
        assert weight is None or found[1] > 0
        torch.testing.assert_close(found[:2], found[2:])
    rows = torch.randn(30, 2, 5)
    whole = torch.compile(net.recurrent, **BACKEND)
    values = []
    for run in (net.recurrent, whole):
        with Omega(net, 4.0, sequences=2) as omega:
            run(rows)[0].square().sum().backward()
        values.append(omega.value)
    assert 0 < values[0] == pytest.approx(values[1])
    dropping = bptt.Network(bptt.Categorical(5), hidden=8, dropout=0.5)
    compiled = torch.compile(dropping, backend="aot_eager")
    with pytest.raises(BpttError, match=r"no torch\.compile"), Omega(dropping, 4.0, sequences=2):
        compiled(y).nll.sum().backward()


def check_sharded() -> None:
    """Compare layers whose weights are sharded with torch's own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for name in ("RNN", "GRU"):
        theirs, ours = getattr(nn, name)(3, 4), getattr(bptt, name)(3, 4)
        ours.load_state_dict(theirs.state_dict())
        sharded = fully_shard(ours, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        assert type(next(ours.parameters())) is not nn.Parameter
        x = torch.randn(5, 2, 3)
        for layer in (theirs, sharded):
            layer(x)[0].square().sum().backward()
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), its.grad)
    dist.destroy_process_group()


def check_constants() -> None:
    """Change a number that a compiled step reads: the next call sees it, a gradient its own."""
    numbers = {"alpha": 0.1, "gates": 0}

    def leaky(W: Tensor) -> Any:
        def step(p: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = state
            new = torch.tanh(p + h @ W.t())
            for _ in range(numbers["gates"]):
                new = torch.sigmoid(new @ W.t()) * new
            return (torch.lerp(h, new, numbers["alpha"]),)

        return step

    W, x, h0 = torch.randn(4, 4, requires_grad=True), torch.randn(5, 2, 4), torch.zeros(2, 4)

    def run(x: Tensor) -> Tensor:
        return ops.run(Recipe(leaky, (W,)), Source(x), (h0,))[0]

    faster = torch.compile(run, **BACKEND)
    for alpha in (0.1, 0.7, 0.1):
        numbers["alpha"] = alpha
        h = faster(x)
        torch.testing.assert_close(h, run(x))
        (expected,) = torch.autograd.grad(run(x).sum(), W)
        numbers["alpha"] = 0.4
        torch.testing.assert_close(torch.autograd.grad(h.sum(), W)[0], expected)
    loops = [call for call in calls if "bptt.loop" in call]
    assert len(loops) == 1, loops  # traced once by the compiler
    numbers["gates"] = 1
    with pytest.raises(BpttError, match=r"expected torch.compiler.reset\(\) after such a change"):
        faster(x)


def check_cells() -> None:
    """Compile layers of cells: an operation each if they are programs, else left to Python."""
    calls.clear()
    x = torch.randn(5, 2, 3, requires_grad=True)
    both = {"reverse": [Leaky(3, 4), Leaky(8, 4)], "batch_first": True}
    whole = [
        bptt.Recurrent(bptt.cells.LEM(3, 4)),
        bptt.Recurrent(bptt.cells.NormLSTM(3, 4)),
        bptt.Recurrent([Leaky(3, 4), Leaky(8, 4)], **both),
    ]
    normed, noisy = bptt.Recurrent(Leaky(3, 4)), bptt.Recurrent(Noisy(3, 4))
    nn.utils.parametrizations.weight_norm(normed.cells[0], "weight_hh")
    for layer in (*whole, normed, noisy):
        faster = torch.compile(layer, fullgraph=layer in whole, backend=backend)
        torch.testing.assert_close(gradients(layer, faster, x), gradients(layer, layer, x))
    assert sum("bptt.loop" in call for call in calls) == 6
    torch._dynamo.reset()  # of what it left to Python it makes no whole graph later
    with pytest.raises(torch._dynamo.exc.Unsupported, match="explain says why"):
        torch.compile(bptt.Recurrent(Noisy(3, 4)), **BACKEND)(x)


def check_cells_change() -> None:
    """Change a number of a compiled cell, which has a copy that looks the same until then."""
    layer, x = bptt.Recurrent(Leaky(3, 4)), torch.randn(5, 2, 3)
    same = copy.deepcopy(layer)
    faster = torch.compile(lambda layer, x: layer(x)[0], **BACKEND)
    for alpha in (0.1, 0.7, 0.1):
        layer.cells[0].alpha = alpha
        for each in (layer, same):
            torch.testing.assert_close(faster(each, x), each(x)[0], rtol=0, atol=0)
        assert torch.equal(faster(layer, x), faster(same, x)) == (alpha == 0.1)


class Leaky(bptt.Cell):
    """h ← (1 − α) h + α tanh(p + W h)"""

    def __init__(self, input_size: int, hidden_size: int, alpha: float = 0.1) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh, self.alpha = self.matrix(hidden_size, hidden_size), alpha

    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return torch.lerp(h, torch.tanh(p + h @ self.weight_hh.t()), self.alpha)


class Noisy(Leaky):
    """The same, by a step that is no program."""

    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return super().step(p, h) + 0 * torch.randn_like(h)


def main() -> None:
    torch.manual_seed(0)
    check_constants()
    calls.clear()
    stack = {"num_layers": 2, "bidirectional": True, "bias": False}
    for make, named in ((bptt.RNN, stack), (bptt.GRU, {}), (bptt.LSTM, {"proj_size": 2})):
        layer, x = make(3, 5, **named), torch.randn(6, 4, 3, requires_grad=True)
        faster = torch.compile(layer, **BACKEND)
        torch.testing.assert_close(gradients(layer, faster, x), gradients(layer, layer, x))
    for layout in (Layout(torch.tensor([4, 4, 2])), Layout(resets=torch.rand(10, 1) < 0.3)):
        layer, x = bptt.GRU(3, 5), torch.randn(10, 3, requires_grad=True)
        x = x if layout.resets is None else x.unsqueeze(1)
        h0 = torch.zeros(1, 4 if layout.resets is None else 1, 5)

        def run(x: Tensor, layer: bptt.GRU = layer, layout: Layout = layout) -> Any:
            outputs, last = layer.run(x, h0, layout)  # noqa: B023
            return outputs[-1], last

        faster = torch.compile(run, **BACKEND)
        torch.testing.assert_close(gradients(layer, faster, x), gradients(layer, run, x))
    kernels = sum("bptt.loop" in call for call in calls)
    layer, xs = bptt.RNN(3, 5), torch.randn(2, 6, 4, 3)
    batched = torch.compile(torch.func.vmap(lambda x: layer(x)[0]), **BACKEND)
    torch.testing.assert_close(batched(xs), torch.stack([layer(x)[0] for x in xs]))
    slope = torch.func.grad(lambda x: layer(x)[0].square().sum())
    torch.testing.assert_close(torch.compile(slope, **BACKEND)(xs[0]), slope(xs[0]))
    check_omega()
    check_sharded()
    check_cells()
    check_cells_change()
    text = f"{kernels} layers compiled to one operation each, 2 transforms inside; sharded ones"
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
