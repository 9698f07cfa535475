"""How the recurrent layers of a model run over time, and if not natively, why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.rnn import RNNBase

from bptt.errors import BpttError, require_kind
from bptt.kernel import binding, ops
from bptt.kernel.native_step import Source
from bptt.kernel.record import Traced
from bptt.model.feedforward import Feedforward
from bptt.model.layers import FASTER
from bptt.model.stack import Stack


@dataclass(frozen=True)
class LayerRun:
    """How one layer runs, in one direction.

    name: where it is in the model, such as "encoder.l0_reverse".
    is_native: whether the native kernel runs it.
    detail: what a step comes to there; or why it does not run there, with the line of the step that
    is no operation on rows.
    """

    name: str
    is_native: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {'native' if self.is_native else 'not native'}: {self.detail}"


@dataclass(frozen=True, repr=False)
class Explanation:
    """How each recurrent layer of a model runs: a line a layer."""

    layers: tuple[LayerRun, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.layers))

    __repr__ = __str__


def explain(model: nn.Module) -> Explanation:
    """Return how each recurrent layer of a model runs over time: natively, or why not.

    What is not native runs by torch's layer, or by a loop over the step in Python: right as well,
    with every derivative, and slower. model: a Network, a layer, or any module with layers in it.
    Raises BpttError where there is none.

    >>> explain(nn.Sequential(nn.GRU(3, 4)))
    0: not native: it is torch.nn's; bptt.accelerate(model) makes it this package's
    """
    require_kind("model", model, nn.Module, "a torch module with RNN, GRU or LSTM layers")
    runs = [
        run
        for name, module in model.named_modules()
        if isinstance(module, RNNBase | Stack)
        for run in _runs(name or type(module).__name__, module)
    ]
    if not runs:
        raise BpttError(
            f"there is no recurrent layer in this {type(model).__name__}; expected a module with "
            "RNN, GRU or LSTM layers"
        )
    return Explanation(tuple(runs))


def _runs(name: str, layer: RNNBase | Stack) -> Iterator[LayerRun]:
    if isinstance(layer, Feedforward):
        yield LayerRun(name, is_native=True, detail="all steps at once, for none waits for another")
        return
    if not isinstance(layer, Stack):
        is_subclass = type(layer) not in FASTER
        detail = (
            "it is a subclass of torch.nn's, which may do more"
            if is_subclass
            else "it is torch.nn's; bptt.accelerate(model) makes it this package's"
        )
        yield LayerRun(name, is_native=False, detail=detail)
        return
    for suffix in layer.suffixes:
        traced = _trace(layer, suffix)
        if isinstance(traced, str):
            yield LayerRun(f"{name}.{suffix[1:]}", is_native=False, detail=traced)
        else:
            is_half = layer.part("weight_ih", suffix).dtype in ops.HALVES
            detail = _described(traced) + (", computed in float32" if is_half else "")
            yield LayerRun(f"{name}.{suffix[1:]}", is_native=True, detail=detail)


def _trace(layer: Stack, suffix: str) -> Traced | str:
    """Return the traced step of one layer, or why it is none."""
    U = layer.part("weight_ih", suffix)
    source = Source(U.new_zeros(1, 1, U.shape[-1]), U)
    hidden = layer.zero_state(1)
    parts = hidden if isinstance(hidden, tuple) else (hidden,)
    state = tuple(part[0] for part in parts if part is not None)
    traced = ops.native(*ops.as_computed(layer.recipe(suffix), source, state))
    assert not isinstance(traced, ops.Compiled)  # nothing is compiled here
    return traced


def _described(traced: Traced) -> str:
    values, backward = traced.program.values, traced.step.gradient
    operations = sum(bool(value.args) for value in values)
    numbers = sum(values[line].width for line in backward.saved)
    return (
        f"{binding.info()['kernel']}, {operations} operations a step, {numbers} numbers kept a row "
        "for the gradient beside its state"
    )
