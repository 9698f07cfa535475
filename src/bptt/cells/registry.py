"""The cells that there are, by name, without torch until one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bptt.cells.cell import Cell

PLACES = {
    "tanh": "elman.RNNCell",
    "relu": "elman.ReluCell",
    "gru": "gru.GRUCell",
    "lstm": "lstm.LSTMCell",
    "mgu": "minimal_gated.MinimalGated",
    "ugrnn": "update_gate.UGRNN",
    "norm-gru": "norm_gru.NormGRU",
    "norm-lstm": "norm_lstm.NormLSTM",
    "peephole-lstm": "peephole_lstm.PeepholeLSTM",
    "coupled-lstm": "coupled_lstm.CoupledLSTM",
    "mingru": "min_gru.MinGRU",
    "minlstm": "min_lstm.MinLSTM",
    "linear": "linear_recurrence.LinearRecurrence",
    "indrnn": "ind_rnn.IndRNN",
    "antisymmetric": "antisymmetric.Antisymmetric",
    "cornn": "coupled_oscillators.CoRNN",
    "lem": "long_expressive_memory.LEM",
    "ctrnn": "continuous_time.CTRNN",
    "plrnn": "piecewise_linear.PLRNN",
    "alrnn": "piecewise_linear.ALRNN",
}
"""The file in this folder, and the class there, of each."""

ELMAN = [name for name, place in PLACES.items() if place.startswith("elman.")]
"""Those without gates."""

if TYPE_CHECKING:
    CellName = str
else:
    CellName = Literal[tuple(PLACES)]


class _Cells(Mapping[str, "type[Cell]"]):
    """The classes, each imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Cell]:
        file, _, kind = PLACES[name].partition(".")
        cell: type[Cell] = getattr(import_module(f"bptt.cells.{file}"), kind)
        return cell

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


CELLS = _Cells()
