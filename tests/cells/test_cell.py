"""Cells that a user writes: what may be done to their weights, and what is refused."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import bptt
from tests.oracles import FLOAT64


class Leaky(bptt.Cell):
    def __init__(self, input_size: int, hidden_size: int, alpha: float = 0.1) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        nn.init.orthogonal_(self.weight_hh)
        self.alpha = alpha

    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return torch.lerp(h, torch.tanh(p + h @ self.weight_hh.T), self.alpha)


class Saved(Leaky):
    """A name that no other module has a cell of."""


class Nested(bptt.Cell):
    """Modules inside, two parts of different sizes, and no weight of its own but the input's."""

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, states=(hidden_size, 3))
        self.inner = nn.Sequential(
            nn.Linear(hidden_size + 3, hidden_size), nn.LayerNorm(hidden_size)
        )
        self.small = nn.Linear(hidden_size, 3)

    def step(self, p: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        a, gate = p.chunk(2, 1)
        new = torch.tanh(a + self.inner(torch.cat([h, m], 1))) * torch.sigmoid(gate)
        return new, 0.9 * m + 0.1 * torch.tanh(self.small(new))


class Conditional(bptt.Cell):
    """A step that is no program: which way it goes depends on the numbers."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = self.matrix(hidden_size, hidden_size)

    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(p + h @ self.weight_hh.T) if p.sum().item() > 0 else 0.5 * h + p


def run(cell: bptt.Cell, x: Tensor) -> Tensor:
    """Return what a loop of the cell's step gives."""
    state, rows = None, []
    for now in x:
        state = cell(now, state)
        rows.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(rows)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(7, 3, 4)


@pytest.mark.parametrize("kind", [Leaky, Nested, Conditional])
@pytest.mark.parametrize("both_ways", [False, True])
def test_every_form_of_input_is_the_loop(kind: type[bptt.Cell], both_ways: bool, x: Tensor) -> None:
    torch.manual_seed(1)
    x = x.double()
    forward, back = kind(4, 5).double(), kind(4, 5).double()
    layer = bptt.Recurrent(forward, reverse=back if both_ways else ())
    lengths = torch.tensor([7, 4, 2])

    def expected(rows: Tensor) -> Tensor:
        out = run(forward, rows)
        return torch.cat([out, run(back, rows.flip(0)).flip(0)], -1) if both_ways else out

    if kind is not Conditional:  # which looks at all rows of a step at once
        torch.testing.assert_close(layer(x)[0], expected(x), **FLOAT64)
    one_by_one = [expected(x[:n, b : b + 1])[:, 0] for b, n in enumerate(lengths)]
    if kind is Conditional:
        one_by_one = [layer(x[:n, b])[0] for b, n in enumerate(lengths)]
    else:
        padded = nn.utils.rnn.pad_sequence(one_by_one)
        torch.testing.assert_close(layer(x, lengths=lengths)[0], padded, **FLOAT64)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        out, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
        torch.testing.assert_close(out, padded, **FLOAT64)
        first = bptt.Recurrent(forward, reverse=back if both_ways else (), batch_first=True)
        out, _ = first(x.transpose(0, 1), lengths=lengths)
        torch.testing.assert_close(out.transpose(0, 1), padded, **FLOAT64)
    torch.testing.assert_close(layer(x[:, 0])[0], expected(x[:, :1])[:, 0], **FLOAT64)
    assert bptt.explain(layer).layers[0].is_native == (kind is not Conditional)


def test_a_state_is_handed_on(x: Tensor) -> None:
    layer = bptt.Recurrent([Nested(4, 5), Nested(5, 5)])
    whole, end = layer(x)
    first, state = layer(x[:3])
    second, last = layer(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, end)
    assert [part.shape for part in end] == [(2, 3, 5), (2, 3, 3)]


def pruned(cell: bptt.Cell) -> None:
    prune.l1_unstructured(cell, "weight_hh", 0.5)


def normalised(cell: bptt.Cell) -> None:
    parametrizations.weight_norm(cell, "weight_hh")


def orthogonal(cell: bptt.Cell) -> None:
    parametrizations.orthogonal(cell, "weight_hh")


def by_hook(cell: bptt.Cell) -> None:
    nn.utils.weight_norm(cell, "weight_hh")


def frozen(cell: bptt.Cell) -> None:
    cell.weight_hh.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", [pruned, normalised, orthogonal, by_hook, frozen])
@pytest.mark.parametrize("where", ["layer", "network"])
def test_weights_that_are_computed_train(
    change: Callable[[bptt.Cell], None], where: str, x: Tensor
) -> None:
    torch.manual_seed(2)
    if where == "layer":
        model: nn.Module = bptt.Recurrent(Leaky(4, 5))
        cell = model.cells[0]
    else:
        model = bptt.Network(bptt.Gaussian(1), inputs=4, cell=Leaky, hidden=5, recurrence="hidden")
        cell = model.recurrent.cells[0]
    change(cell)

    def loss() -> Tensor:
        if where == "layer":
            return model(x)[0].square().sum()
        return model(x[..., :1], x=x).nll.sum()

    def by_hand() -> Tensor:
        if where == "layer":
            return run(cell, x).square().sum()
        o = model.readout(run(cell, x))
        return model.likelihood.nll(o, x[..., :1]).sum()

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        by_hand().backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.zero_grad()
        loss().backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(found) == set(expected)
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)
        optimizer.step()


def test_a_weight_shared_by_two_layers_has_both_gradients(x: Tensor) -> None:
    cell = Leaky(4, 4)
    layer = bptt.Recurrent([cell, cell])
    layer(x)[0].sum().backward()
    expected = torch.autograd.grad(run(cell, run(cell, x)).sum(), cell.weight_hh)[0]
    torch.testing.assert_close(cell.weight_hh.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_number_that_changes_is_seen(x: Tensor) -> None:
    cell = Leaky(4, 5)
    layer = bptt.Recurrent(cell)
    before = layer(x)[0]
    cell.alpha = 0.5
    torch.testing.assert_close(layer(x)[0], run(cell, x))
    assert not torch.equal(layer(x)[0], before)


def test_layers_are_copied_and_pickled(x: Tensor) -> None:
    layer = bptt.Recurrent([Leaky(4, 5), Leaky(5, 5, alpha=0.3)])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x)[0], layer(x)[0], rtol=0, atol=0)


def test_a_class_of_ones_own_is_saved_by_its_name_and_arguments() -> None:
    net = bptt.Network(bptt.Gaussian(1), cell=lambda i, h: Saved(i, h, alpha=0.3), hidden=5)
    config = json.loads(json.dumps(net.config()))
    assert config["cell"] == {"class": "Saved", "alpha": 0.3}
    again = bptt.Network.from_config(config)
    assert again.recurrent.cells[0].alpha == 0.3
    for cell, reason in (
        ({"class": "Nobody"}, "not defined here"),
        ({"class": "Saved", "beta": 1}, "other arguments"),
        ({}, "not defined here"),
        (["tanh"], "cell is"),
    ):
        with pytest.raises(bptt.BpttError, match=reason):
            bptt.Network.from_config({**config, "cell": cell})


def test_a_run_of_a_class_of_ones_own_is_saved_and_goes_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 20)
    data = bptt.read_text(text)
    net = bptt.Network(data.likelihood, cell=lambda i, h: Saved(i, h, alpha=0.3), hidden=5)
    settings = bptt.Settings(max_updates=2, window=10, batch=2)
    bptt.fit(net, data, settings, out=tmp_path / "run")
    again, done = bptt.resume(tmp_path / "run", max_updates=4)
    assert (done.updates, again.recurrent.cells[0].alpha) == (4, 0.3)


def test_a_class_that_has_a_name_is_the_cell_of_that_name() -> None:
    y = torch.randint(4, (6, 2))
    nets = []
    for cell in ("gru", bptt.GRUCell):
        torch.manual_seed(0)
        nets.append(bptt.Network(bptt.Categorical(4), cell=cell, hidden=5))
    assert nets[0].config() == nets[1].config()
    assert type(nets[1].recurrent) is bptt.GRU
    torch.testing.assert_close(nets[0](y).nll, nets[1](y).nll, rtol=0, atol=0)


def test_two_classes_of_one_name_are_not_taken_for_each_other() -> None:
    config = bptt.Network(bptt.Gaussian(1), cell=Saved, hidden=5).config()
    other = type("Saved", (Leaky,), {"__module__": "elsewhere"})
    with pytest.raises(bptt.BpttError, match="several modules have a cell called Saved: elsewhere"):
        bptt.Network.from_config(config)
    del other
    gc.collect()
    bptt.Network.from_config(config)


def test_a_tensor_that_there_is_not_is_no_attribute() -> None:
    layer = bptt.Recurrent(Leaky(4, 5))
    assert layer.weight_hh_l0 is layer.cells[0].weight_hh
    for name in ("bias_hh_l0", "weight_hh_l1", "weight_hh_l0_reverse", "nothing"):
        assert not hasattr(layer, name)


def test_an_argument_that_no_file_can_have_is_said() -> None:
    net = bptt.Network(bptt.Gaussian(1), cell=lambda i, h: Leaky(i, h, alpha=torch.tensor(0.1)))
    with pytest.raises(bptt.BpttError, match="alpha of a Leaky is a Tensor"):
        net.config()


class NoStep(bptt.Cell):
    pass


class WrongShape(bptt.Cell):
    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return h[:, :1]


class WrongParts(bptt.Cell):
    def step(self, p: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, h


class WrongDtype(bptt.Cell):
    def step(self, p: Tensor, h: Tensor) -> Tensor:
        return (p + h).double()


class Nothing(bptt.Cell):
    def step(self, p: Tensor, h: Tensor) -> None:
        return None


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: NoStep(4, 5), "NoStep has no step"),
        (lambda x: Leaky(4, 0), "hidden_size is 0"),
        (lambda x: Leaky(-1, 3), "input_size is -1"),
        (bptt.Recurrent(WrongShape(4, 5)), r"WrongShape.step returned"),
        (bptt.Recurrent(WrongParts(4, 5)), r"WrongParts.step returned"),
        (bptt.Recurrent(WrongDtype(4, 5)), r"WrongDtype.step returned torch.float64"),
        (bptt.Recurrent(Nothing(4, 5)), r"Nothing.step returned None"),
        (lambda x: bptt.Recurrent([]), "there are 0 cells"),
        (lambda x: bptt.Recurrent(nn.Linear(3, 4)), "cells is a Linear"),
        (lambda x: bptt.Recurrent([Leaky(4, 5), Leaky(4, 5)]), "cell 1 takes 4 inputs"),
        (lambda x: bptt.Recurrent([Leaky(4, 5), Nested(5, 5)]), "has a state of"),
        (lambda x: bptt.Recurrent(Leaky(4, 5), reverse=[Leaky(4, 5)] * 2), "1 cells and 2"),
        (lambda x: bptt.Recurrent(Leaky(4, 5), dropout=2.0), "dropout is 2.0"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x[..., :3]), "expected real numbers, 4 a row"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x.long()), "expected real numbers"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(None), "input is None"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x[:0]), "expected a tensor of T steps"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x, x), r"hx is \(7, 3, 4\); expected \(1, 3, 5\)"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x, resets=x[..., 0] > 9e9), None),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x, resets=x), r"resets has shape"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x, lengths=torch.tensor([8, 1, 1])), "lengths are"),
        (Leaky(4, 5), r"x is a Tensor"),
        (lambda x: Leaky(4, 5)(x[0], x[0, :, :1].double() + torch.zeros(5)), "the state is torch"),
        (lambda x: bptt.GRUCell(4, 5)(x[0].double(), torch.zeros(3, 5)), "x is torch.float64"),
        (lambda x: bptt.GRUCell(4, 5)(x[0], torch.zeros(3, 5).double()), "the state is torch"),
        (lambda x: Leaky(4, 5)(x[0].double()), "x is torch.float64 on cpu, beside weights"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x.double()), "input is torch.float64 on cpu"),
        (bptt.Recurrent(Leaky(4, 5).double()), "beside weights that are torch.float64"),
        (lambda x: bptt.Recurrent(Leaky(4, 5))(x.to("meta")), "input is torch.float32 on meta"),
        (
            lambda x: bptt.Recurrent(Leaky(4, 5))(x, torch.zeros(1, 3, 5).double()),
            "hx is torch.float64",
        ),
        (lambda x: Leaky(4, 5)(x[0], x[0]), "the state of a Leaky is"),
        (lambda x: bptt.Network(bptt.Gaussian(1), cell="grU"), "grU"),
        (lambda x: bptt.Network(bptt.Gaussian(1), cell=nn.Linear), "what cell makes is a Linear"),
        (
            lambda x: bptt.Network(bptt.Gaussian(1), cell=Leaky, init="identity"),
            'init is given with cell "Leaky"',
        ),
        (lambda x: bptt.Network(bptt.Gaussian(1), cell=Leaky, dropout=0.5), "dropout is given"),
        (lambda x: bptt.Network(bptt.Gaussian(1), cell=Leaky, leak=0.5), "leak is given"),
        (lambda x: bptt.Network(bptt.Gaussian(1), cell=Leaky, recurrence="output"), "output"),
    ],
)
def test_bad_input(call: Callable[[Tensor], object], reason: str | None, x: Tensor) -> None:
    if reason is None:
        call(x)
        return
    with pytest.raises(bptt.BpttError, match=reason):
        call(x)


def test_a_hook_that_would_not_run_is_refused(x: Tensor) -> None:
    layer = bptt.Recurrent(Leaky(4, 5))
    handle = layer.cells[0].register_forward_hook(lambda *_: None)
    with pytest.raises(bptt.BpttError, match="forward hook, which would not run"):
        layer(x)
    handle.remove()
    layer(x)


def test_half_precision_is_the_layers_own(x: Tensor) -> None:
    layer = bptt.Recurrent(Leaky(4, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
    assert output.dtype == state.dtype == torch.float32
    torch.testing.assert_close(output, layer(x)[0])
    half = copy.deepcopy(layer).bfloat16()
    output, state = half(x.bfloat16())
    assert output.dtype == state.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), layer(x)[0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", [Leaky, Nested])
def test_transforms_and_derivatives_of_derivatives(kind: type[bptt.Cell], x: Tensor) -> None:
    layer, x = bptt.Recurrent(kind(4, 3)).double(), x[:3, :2].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (x,))
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))
    several = torch.stack([x.detach(), 2 * x.detach()])
    each = torch.func.vmap(lambda x: layer(x)[0])(several)
    torch.testing.assert_close(each, torch.stack([layer(one)[0] for one in several]), **FLOAT64)
    slopes = torch.func.jacrev(lambda x: layer(x)[0].sum())(x.detach())
    expected = torch.autograd.grad(layer(x)[0].sum(), x)[0]
    torch.testing.assert_close(slopes, expected, **FLOAT64)
    again = checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x)[0], expected, **FLOAT64)
