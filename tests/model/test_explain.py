"""What a model is told of how its layers run."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.errors import BpttError
from bptt.kernel import binding
from bptt.kernel.ops import Recipe


def sorting(W: Tensor) -> Any:
    def step(p: Tensor, state: Any) -> Any:
        (h,) = state
        return (torch.sort(p + h @ W.t()).values,)

    return step


class Sorting(bptt.RNN):
    """A layer whose step is no operation on rows."""

    def recipe(self, suffix: str) -> Recipe:
        return Recipe(sorting, (self.part("weight_hh", suffix),))


class Model(nn.Module):
    """A user's model, some of whose layers are torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = bptt.LSTM(3, 4, bidirectional=True)
        self.decoder = nn.GRU(8, 4)
        self.head = nn.Linear(4, 2)


def test_each_layer_and_direction_of_a_model() -> None:
    explanation = bptt.explain(Model())
    names = ["encoder.l0", "encoder.l0_reverse", "decoder"]
    assert [run.name for run in explanation.layers] == names
    assert [run.is_native for run in explanation.layers] == [True, True, False]
    assert "bptt.accelerate(model)" in explanation.layers[2].detail
    assert str(explanation) == repr(explanation)
    assert [line.split(":")[0] for line in str(explanation).splitlines()] == names
    model = bptt.accelerate(Model())
    assert all(run.is_native for run in bptt.explain(model).layers)


def test_what_is_kept_is_the_gates_of_a_gru_and_nothing_of_a_tanh_layer() -> None:
    (tanh,), (gru,) = (bptt.explain(layer).layers for layer in (bptt.RNN(3, 5), bptt.GRU(3, 5)))
    assert " 0 numbers kept a row" in tanh.detail
    assert f" {4 * 5} numbers kept a row" in gru.detail


def test_why_not_names_the_line_of_the_step() -> None:
    (run,) = bptt.explain(Sorting(3, 4)).layers
    assert not run.is_native
    assert "sort is no operation on rows" in run.detail
    assert "return (torch.sort(p + h @ W.t()).values,)" in run.detail
    layer, x = Sorting(3, 4), torch.randn(5, 2, 3)
    h = torch.zeros(2, 4)
    for p, row in zip(nn.functional.linear(x, layer.weight_ih_l0), layer(x)[0], strict=True):
        h = torch.sort(p + layer.bias_ih_l0 + layer.bias_hh_l0 + h @ layer.weight_hh_l0.t()).values
        torch.testing.assert_close(row, h)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (bptt.GRU(3, 4, device="meta"), "on another device"),
        (type("Mine", (nn.GRU,), {})(3, 4), "a subclass of torch.nn's"),
    ],
)
def test_why_a_layer_is_not_native(layer: nn.Module, why: str) -> None:
    (run,) = bptt.explain(layer).layers
    assert not run.is_native
    assert why in run.detail


def test_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "native", None)
    monkeypatch.setattr(binding, "WHY_NOT_NATIVE", "no compiler", raising=False)
    (run,) = bptt.explain(bptt.RNN(3, 4)).layers
    assert run.detail == "the native kernel is not built: no compiler"


@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru"}, {"skips": (4,), "leak": 0.5}, {"recurrence": "output"}]
)
def test_every_network_is_native(options: dict[str, Any]) -> None:
    net = bptt.Network(bptt.Categorical(5), hidden=6, layers=2, **options)
    assert bptt.explain(net).layers
    assert all(run.is_native for run in bptt.explain(net).layers)


def test_models_without_recurrent_layers_are_refused() -> None:
    with pytest.raises(BpttError, match="no recurrent layer in this Linear; expected a module"):
        bptt.explain(nn.Linear(2, 2))
    with pytest.raises(BpttError, match="model is 3"):
        bptt.explain(3)  # type: ignore[arg-type]
