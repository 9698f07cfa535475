"""Networks of other kinds than the usual, trained on every kind of data and put into folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import bptt
from bptt.forecasting.forecast import forecast
from bptt.forecasting.one_step_ahead import one_step_ahead
from bptt.training.evaluation import evaluate
from bptt.training.trainer import Trainer

SETTINGS = bptt.Settings(max_updates=5, batch=2, window=5, validate_every=2)


def text(folder: Path) -> bptt.Dataset:
    path = folder / "text.txt"
    path.write_text("hello world, " * 40)
    return bptt.read_text(path)


def table(folder: Path) -> bptt.Dataset:
    path = folder / "table.csv"
    rows = [f"{np.sin(t / 5):.4f},{np.cos(t / 7):.4f}" for t in range(150)]
    path.write_text("a,b\n" + "\n".join(rows))
    return bptt.read_table(path, bptt.Columns(target=("a",), inputs=("b",)))


def collection(folder: Path) -> bptt.Dataset:
    path = folder / "sequences.npz"
    random = np.random.default_rng(0)
    np.savez(path, y=random.normal(size=(9, 12, 2)), x=random.normal(size=(9, 12, 1)))
    return bptt.read_collection(path)


def task(folder: Path) -> bptt.Dataset:
    return bptt.Task("adding", (10, 10))


DATA = {make.__name__: make for make in (text, table, collection, task)}


def net_for(data: bptt.Dataset, **more: Any) -> bptt.Network:
    torch.manual_seed(0)
    return bptt.Network(data.likelihood, inputs=data.inputs, hidden=4, **more)


class StopError(Exception):
    """What ends a run half way."""


@pytest.mark.parametrize("kind", list(DATA))
def test_a_float64_network_takes_any_data(kind: str, tmp_path: Path) -> None:
    data = DATA[kind](tmp_path)
    net = net_for(data).double()

    def stop(update: Any) -> None:
        if update.number == 3:
            raise StopError

    with pytest.raises(StopError):
        bptt.fit(net, data, settings=SETTINGS, out=tmp_path / "run", on_update=stop)
    again, done = bptt.resume(tmp_path / "run")
    straight = net_for(data).double()
    bptt.fit(straight, data, settings=SETTINGS)
    for weight, its in zip(again.parameters(), straight.parameters(), strict=True):
        assert weight.dtype == torch.float64
        assert torch.equal(weight, its)
    assert np.isfinite(done.validation_nll)
    assert np.isfinite(evaluate(net, data.validation_batches(2)))
    seen = bptt.diagnose_run(tmp_path / "run")
    assert np.isfinite(seen.flow.by_lag).all()


def test_float64_tables_are_forecast(tmp_path: Path) -> None:
    data = table(tmp_path)
    assert isinstance(data, bptt.Table)
    net = net_for(data).double()
    assert np.isfinite(one_step_ahead(net, data).network).all()
    future = tmp_path / "future.csv"
    future.write_text("b\n1\n0\n1\n")
    assert np.isfinite(forecast(net, data, 3, future=future, paths=4, seed=0).mean).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", list(DATA))
def test_half_precision_is_refused_before_training(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    data = DATA[kind](tmp_path)
    with pytest.raises(bptt.BpttError, match=r"expected torch\.float32 or torch\.float64"):
        bptt.fit(net_for(data).to(dtype), data, settings=SETTINGS)


def tied(net: bptt.Network) -> bptt.Network:
    net.recurrent.weight_hh_l1 = net.recurrent.weight_hh_l0
    return net


def test_tied_weights_are_saved_once_and_tied_again(tmp_path: Path) -> None:
    data = text(tmp_path)
    half = tied(net_for(data, layers=2))
    bptt.fit(half, data, settings=SETTINGS, out=tmp_path / "run")
    loaded = bptt.Run.open(tmp_path / "run").network()
    assert loaded.recurrent.weight_hh_l0 is loaded.recurrent.weight_hh_l1
    again, _ = bptt.resume(tmp_path / "run", max_updates=6)
    assert again.recurrent.weight_hh_l0 is again.recurrent.weight_hh_l1
    for name, weight in half.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    steps = len(Trainer(again, data, SETTINGS).state.descent.parameters)
    assert steps == len(list(half.parameters())) - 2  # the frozen second biases


def test_weights_in_one_piece_of_memory_are_saved_as_cudnn_has_them(tmp_path: Path) -> None:
    data = text(tmp_path)
    net = net_for(data)
    flat = torch.nn.utils.parameters_to_vector(net.recurrent.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, net.recurrent.parameters())
    owners = {p.untyped_storage().data_ptr() for p in net.recurrent.parameters()}
    assert len(owners) == 1
    bptt.fit(net, data, settings=SETTINGS, out=tmp_path / "run")
    loaded = bptt.Run.open(tmp_path / "run").network().state_dict()
    for name, weight in net.state_dict().items():
        assert torch.equal(loaded[name], weight)


class Mine(bptt.Gaussian):
    pass


class MyNetwork(bptt.Network):
    pass


REFUSED: dict[str, tuple[str, Callable[[bptt.Network], Any]]] = {
    "pruned": ("prune.remove", lambda net: prune.l1_unstructured(net.readout, "weight", 0.5)),
    "parametrized": (
        "remove_parametrizations",
        lambda net: parametrizations.weight_norm(net.recurrent, "weight_hh_l0"),
    ),
    "replaced": ("other weights", lambda net: setattr(net, "readout", nn.Linear(4, 1, bias=False))),
    "own likelihood": ("Mine cannot be made", lambda net: setattr(net, "likelihood", Mine(1))),
    "own network": ("MyNetwork cannot", lambda net: setattr(net, "__class__", MyNetwork)),
    "a view": (
        "shares memory",
        lambda net: setattr(
            net.recurrent, "bias_ih_l0", nn.Parameter(net.recurrent.weight_hh_l0.detach()[0])
        ),
    ),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_could_not_be_loaded_is_refused_before_training(kind: str, tmp_path: Path) -> None:
    data = table(tmp_path)
    net = net_for(data)
    words, change = REFUSED[kind]
    change(net)
    before, random = list(tmp_path.iterdir()), torch.get_rng_state()
    with pytest.raises(bptt.BpttError, match=words):
        bptt.fit(net, data, settings=SETTINGS, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == before
    assert random.shape == torch.get_rng_state().shape


def test_a_pruned_network_is_trained_without_a_folder(tmp_path: Path) -> None:
    data = table(tmp_path)
    net = net_for(data)
    prune.l1_unstructured(net.readout, "weight", 0.5)
    before = net.readout.weight_orig.detach().clone()
    bptt.fit(net, data, settings=SETTINGS)
    assert not torch.equal(net.readout.weight_orig, before)
