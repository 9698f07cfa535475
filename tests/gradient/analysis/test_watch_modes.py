"""Whatever is done with a layer, watching changes nothing, raises nothing, and is right or says no.

One list of layers, one of what a model makes of their output, one of ways to train.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import bptt
from bptt.gradient.analysis.replay import LayerCall

T, B, WIDTH, H = 5, 3, 4, 6

CELLS: dict[str, Callable[..., nn.Module]] = {
    "nn.RNN": nn.RNN,
    "nn.GRU": nn.GRU,
    "nn.LSTM": nn.LSTM,
    "bptt.RNN": bptt.RNN,
    "bptt.GRU": bptt.GRU,
    "bptt.LSTM": bptt.LSTM,
}


def h_of(last: Any) -> Tensor:
    return last[0] if isinstance(last, tuple) else last


USES: dict[str, Callable[[Any, Any], Tensor]] = {
    "out": lambda out, last: out.square().sum(),
    "last out": lambda out, last: out[-1].sum(),
    "h": lambda out, last: h_of(last)[-1].sum(),
    "out and state": lambda out, last: out.sum() + h_of(last).square().sum(),
    "c or h": lambda out, last: (last[1] if isinstance(last, tuple) else last).sum(),
    "in place": lambda out, last: out.mul_(2).sum(),
}


class Model(nn.Module):
    """A user's model: something below the recurrent layer, and a loss above."""

    def __init__(self, rnn: nn.Module, use: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.below, self.rnn, self.use = nn.Linear(WIDTH, WIDTH), rnn, use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(*self.rnn(self.below(x)))


def plain(model: Model, x: Tensor) -> None:
    model(x).backward()


def autocast(model: Model, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x)
    loss.backward()


def checkpointed(model: Model, x: Tensor) -> None:
    checkpoint(model, x, use_reentrant=False).backward()


def reentrant(model: Model, x: Tensor) -> None:
    checkpoint(model, x.clone().requires_grad_(), use_reentrant=True).backward()


def layer_checkpointed(model: Model, x: Tensor) -> None:
    below = model.below(x)
    model.use(*checkpoint(model.rnn, below, use_reentrant=False)).backward()


def twice(model: Model, x: Tensor) -> None:
    """Two losses of one call add up, in .grad and in the flow."""
    loss = model(x)
    (0.25 * loss).backward(retain_graph=True)
    (0.75 * loss).backward()


def accumulated(model: Model, x: Tensor) -> None:
    model(-x).backward()
    model(x).backward()


def after_validation(model: Model, x: Tensor) -> None:
    model(x).backward()
    with torch.no_grad():
        model(2 * x)
    model(-x)  # never taken back


def saliency_first(model: Model, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    loss = model(x)
    torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()


def hooked_output(model: Model, x: Tensor) -> None:
    """Hooks of the user's own that change the gradient on its way, together by nothing."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        for factor in (2, 0.5):
            output[0].register_hook(lambda grad, f=factor: None if grad is None else grad * f)

    handle = model.rnn.register_forward_hook(hook)
    model(x).backward()
    handle.remove()


def step_by_step_clear(model: Model, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    model(x).backward()
    optimizer.step()


WAYS = {
    way.__name__: way
    for way in (
        plain,
        checkpointed,
        reentrant,
        layer_checkpointed,
        twice,
        accumulated,
        after_validation,
        saliency_first,
        hooked_output,
        step_by_step_clear,
    )
}


def create_graph(model: Model, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    loss = model(x)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + grad.square().sum()).backward()


def by_func(model: Model, x: Tensor) -> None:
    parameters = dict(model.named_parameters())
    grads = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)))(parameters)
    for name, parameter in parameters.items():
        parameter.grad = grads[name]


def input_changed(model: Model, x: Tensor) -> None:
    for parameter in model.rnn.parameters():
        parameter.requires_grad_(parameter is model.rnn.bias_ih_l0)
    below = model.below(x).detach()
    model.use(*model.rnn(below)).backward()
    below.zero_()


REFUSED = {
    create_graph: "create_graph=True",
    by_func: "torch.func",
    input_changed: "changed in place",
}


def make(cell: str, use: str = "out", dtype: torch.dtype = torch.float32, **more: Any) -> Model:
    torch.manual_seed(0)
    model = Model(CELLS[cell](WIDTH, H, **more), USES[use])
    if use == "in place":  # of a copy: torch refuses to go back through an output that was changed
        model.rnn.register_forward_hook(lambda _, __, output: (output[0].clone(), output[1]))
    return model.to(dtype)


def gradients(model: nn.Module) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def trained(model: Model, way: Callable[[Model, Tensor], None], x: Tensor) -> bptt.Watch:
    """Train with and without a watch; hold the gradients against each other, bit for bit."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    way(model, x)
    expected, drawn = gradients(model), torch.rand(1)
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.load_state_dict(state)
    torch.manual_seed(1)
    with bptt.watch(model) as flows:
        way(model, x)
    assert torch.equal(torch.rand(1), drawn)
    for got, want in zip(gradients(model), expected, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got, want)
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    return flows


def exact(cell: str, use: str, model: Model, x: Tensor, **more: Any) -> np.ndarray:
    """The flow's norms in float64, by torch's own layer and a plain backward."""
    name = cell.replace("bptt", "nn")
    other = make(name, use, torch.float64, **more)
    other.below.load_state_dict(model.below.state_dict())
    other.rnn.load_state_dict({n: getattr(model.rnn, n) for n, _ in other.rnn.named_parameters()})
    with bptt.watch(other) as flows:
        plain(other, x.double())
    return flows["rnn"].norms


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(T, B, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("cell", list(CELLS))
def test_every_way_to_train(cell: str, way: str) -> None:
    for use in USES if way == "plain" else ("out and state", "h"):
        model = make(cell, use)
        flows = trained(model, WAYS[way], data())
        expected = exact(cell, use, model, data())
        np.testing.assert_allclose(flows["rnn"].norms, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", list(CELLS))
def test_half_precision(cell: str, dtype: torch.dtype) -> None:
    for use in ("out", "h"):
        model = make(cell, use, dtype)
        flows = trained(model, plain, data(dtype))
        expected = exact(cell, use, model, data(dtype))
        np.testing.assert_allclose(flows["rnn"].norms, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("cell", ["nn.RNN", "nn.GRU", "nn.LSTM", "bptt.RNN", "bptt.LSTM"])
def test_autocast(cell: str) -> None:
    for use in ("out", "h"):
        model = make(cell, use)
        flows = trained(model, autocast, data())
        expected = exact(cell, use, model, data())
        np.testing.assert_allclose(flows["rnn"].norms, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("way", list(REFUSED), ids=lambda way: way.__name__)
@pytest.mark.parametrize("cell", list(CELLS))
def test_what_cannot_be_seen_is_said_when_the_flow_is_asked_for(cell: str, way: Any) -> None:
    flows = trained(make(cell), way, data())
    with pytest.raises(bptt.BpttError, match=REFUSED[way]):
        flows["rnn"]


@pytest.mark.parametrize("more", [{"num_layers": 2, "dropout": 0.5}, {"bidirectional": True}])
@pytest.mark.parametrize("way", ["plain", "checkpointed", "reentrant", "twice"])
@pytest.mark.parametrize("cell", list(CELLS))
def test_stacks_and_directions(cell: str, way: str, more: dict[str, Any]) -> None:
    for use in ("out", "h"):
        flows = trained(make(cell, use, **more), WAYS[way], data())
        assert [len(flow.norms) for flow in flows.values()] == [T] * len(flows)
        assert len(flows) == (2 if "bidirectional" in more else 1)


NORMS = {
    "weight_norm": lambda rnn: parametrizations.weight_norm(rnn, "weight_hh_l0"),
    "spectral_norm": lambda rnn: parametrizations.spectral_norm(rnn, "weight_hh_l0"),
    "hooked weight_norm": lambda rnn: nn.utils.weight_norm(rnn, "weight_hh_l0"),
    "pruned": lambda rnn: prune.l1_unstructured(rnn, "weight_hh_l0", 0.3),
    "frozen": lambda rnn: rnn.weight_hh_l0.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("cell", ["nn.RNN", "nn.LSTM", "bptt.RNN", "bptt.GRU"])
def test_weights_that_are_computed_or_frozen(cell: str, norm: str) -> None:
    model = make(cell)
    NORMS[norm](model.rnn)
    flows = trained(model, plain, data())
    expected = exact(cell, "out", model, data())
    np.testing.assert_allclose(flows["rnn"].norms, expected, rtol=1e-2, atol=1e-3)


def test_packed_sequences_of_which_the_last_state_is_used() -> None:
    def use(out: Any, last: Any) -> Tensor:
        assert pad_packed_sequence(out)[0].shape[0] == T
        return h_of(last).square().sum()

    class Packed(Model):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.below(x), torch.tensor([2, 5, 3]), False, False)
            return self.use(*self.rnn(packed))

    for cell in CELLS.values():
        flows = trained(Packed(cell(WIDTH, H), use), plain, data())
        assert np.isfinite(flows["rnn"].norms[4, 0])


def test_updates_are_counted_as_without_checkpoints() -> None:
    for way in (plain, checkpointed, reentrant):
        model = make("nn.GRU")
        with bptt.watch(model, every=2) as flows:
            for _ in range(4):
                way(model, data())
        assert [one.update for one in flows.history["rnn"]] == [0, 2], way.__name__


def test_what_is_compiled_trains_on_and_is_seen_or_said_not_to_be() -> None:
    # In a process of its own, since what is compiled stays for a whole process.
    command = [sys.executable, "-m", "tests.gradient.analysis.compiled_watch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "12 compiled steps train as they do unwatched, 4 seen"


def test_a_graph_that_is_thrown_away_takes_what_was_noted_with_it() -> None:
    model = make("nn.GRU")
    with bptt.watch(model):
        for _ in range(5):
            model(data())
        gc.collect()
        assert not any(type(thing) is LayerCall for thing in gc.get_objects())


class Stranger(nn.RNN):
    """A layer that returns something else."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        return {"out": super().forward(x, hx)[0]}


def test_a_layer_that_returns_something_else_goes_on() -> None:
    layer = Stranger(WIDTH, H)
    with bptt.watch(layer) as flows:
        layer(data())["out"].sum().backward()
    with pytest.raises(bptt.BpttError, match="model cannot be looked into"):
        flows["model"]
