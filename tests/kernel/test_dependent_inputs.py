"""Inputs of a layer that are made of each other: each one's gradient is counted once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.cells.looped import LoopParts
from bptt.kernel.ops import run_plainly
from tests.kernel import one_layer
from tests.kernel.one_layer import Given
from tests.oracles import FLOAT64

T, B, I, H = 4, 3, 2, 3  # noqa: E741
NAMES = ("x", "h0", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
KINDS = {"tanh": ("RNN", {}), "relu": ("RNN", {"nonlinearity": "relu"}), "gru": ("GRU", {})}
Compute = Callable[[dict[str, Tensor]], list[Tensor]]


def leaves(kind: str) -> dict[str, Tensor]:
    G = 3 * H if kind == "gru" else H
    shapes = [(T, B, I), (1, B, H), (G, I), (G, H), (G,), (G,)]
    tensors = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    return dict(zip(NAMES, tensors, strict=True))


def made_of(source: Tensor, shape: torch.Size) -> Tensor:
    """Return values of a tensor, as often as the shape needs."""
    size = shape.numel()
    rows = source.flatten().repeat(-(-size // source.numel()))[:size]
    return 0.5 * rows.view(shape).sin()


def layer_of(kind: str, library: object) -> Compute:
    name, options = KINDS[kind]
    layer = getattr(library, name)(I, H, **options).double()

    def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
        weights = {key: inputs[key] for key in NAMES[2:]}
        call = (inputs["x"], inputs["h0"])
        return list(torch.func.functional_call(layer, weights, call))

    return compute


def derivatives(compute: Compute, inputs: dict[str, Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """Return first derivatives, the same with a graph, second ones, and batches of the first."""
    outputs = compute(inputs)
    loss = sum((out**2).sum() for out in outputs)
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    graphed = torch.autograd.grad(loss, wanted, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in graphed), wanted, retain_graph=True)
    batch = torch.eye(2, dtype=torch.float64).view(2, 2, 1, 1)[:, :1] * outputs[0]
    batched = torch.autograd.grad(
        outputs[0],
        wanted,
        batch.detach(),
        is_grads_batched=True,
        allow_unused=True,
        retain_graph=True,  # what one input was made of is common to both computations
    )
    return [*first, *graphed, *second, *batched]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for mine, its in zip(got, expected, strict=True):
        scale = max(1.0, float(its.detach().abs().max()))  # second derivatives of a norm are large
        torch.testing.assert_close(mine / scale, its / scale, **FLOAT64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", list(itertools.permutations(NAMES, 2)), ids="<".join)
def test_every_pair(kind: str, pair: tuple[str, str]) -> None:
    made, source = pair
    first = leaves(kind)
    inputs = {**first, made: first[made] + made_of(first[source], first[made].shape)}
    wanted = list(first.values())
    expected = derivatives(layer_of(kind, nn), inputs, wanted)
    got = derivatives(layer_of(kind, bptt), inputs, wanted)
    assert_same(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_inputs_that_are_the_same_tensor(kind: str) -> None:
    first = leaves(kind)
    inputs = {**first, "bias_hh_l0": first["bias_ih_l0"]}
    wanted = [tensor for name, tensor in first.items() if name != "bias_hh_l0"]
    expected = derivatives(layer_of(kind, nn), inputs, wanted)
    got = derivatives(layer_of(kind, bptt), inputs, wanted)
    assert_same(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_calls(kind: str) -> None:
    def in_two(compute: Compute) -> Compute:
        def run(inputs: dict[str, Tensor]) -> list[Tensor]:
            _, state = compute({**inputs, "x": inputs["x"][:2]})
            return compute({**inputs, "x": inputs["x"][2:], "h0": state})

        return run

    def fed_back(compute: Compute) -> Compute:
        def run(inputs: dict[str, Tensor]) -> list[Tensor]:
            out, state = compute({**inputs, "x": inputs["x"][:1]})
            for _ in range(2):
                out, state = compute({**inputs, "x": out[..., :I], "h0": state})
            return [out, state]

        return run

    for way in (in_two, fed_back):
        inputs = leaves(kind)
        wanted = list(inputs.values())
        expected = derivatives(way(layer_of(kind, nn)), inputs, wanted)
        got = derivatives(way(layer_of(kind, bptt)), inputs, wanted)
        assert_same(got, expected)


@pytest.mark.parametrize("made", ["W", "h0", "leak", "gain"])
def test_looped_layers(made: str) -> None:
    names = ("x", "U", "W", "b_ih", "b_hh", "h0", "leak", "gain", "shift")
    shapes = [(T, B, I), (H, I), (H, 2 * H), (H,), (H,), (2, B, H), (H,), (H,), (H,)]
    first = {
        name: (torch.randn if name in "xUWh0" else torch.rand)(shape).double().requires_grad_()
        for name, shape in zip(names, shapes, strict=True)
    }
    inputs = {**first, made: first[made] + made_of(first["x"], first[made].shape)}

    def compute_by(looped: Callable[..., tuple[Tensor, Tensor]]) -> Compute:
        def compute(inputs: dict[str, Tensor]) -> list[Tensor]:
            given = Given(*[inputs[name] for name in names[:6]])
            return list(looped("tanh", given, LoopParts((1, 2), *[inputs[n] for n in names[6:]])))

        return compute

    wanted = list(first.values())
    plain = partial(one_layer.looped_layer, run=run_plainly)
    expected = derivatives(compute_by(plain), inputs, wanted)
    assert_same(derivatives(compute_by(one_layer.looped_layer), inputs, wanted), expected)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize("more", [{}, {"norm": True, "leak": 0.3}])
def test_a_network_with_a_carried_state(cell: str, more: dict[str, object]) -> None:
    if more and cell != "tanh":
        more = {"layers": 2}
    net = bptt.Network(bptt.Categorical(3), hidden=H, cell=cell, **more).double()
    y = torch.randint(3, (6, 2))
    wanted = list(net.parameters())
    wanted = [p for p in wanted if p.requires_grad]

    def gradients(parts: list[slice]) -> list[Tensor]:
        state, total = None, torch.zeros(())
        for part in parts:
            out = net(y[part], state=state)
            state, total = out.state, total + out.nll.sum()
        first = torch.autograd.grad(total, wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum((g**2).sum() for g in first), wanted)]

    whole, in_three = gradients([slice(0, 6)]), gradients([slice(0, 2), slice(2, 3), slice(3, 6)])
    assert_same(in_three, whole)
