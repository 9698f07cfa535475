"""The cells that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping

from bptt.cells.cell import Cell
from bptt.cells.elman import Relu, Tanh
from bptt.cells.gru import GRUCell
from bptt.cells.lstm import LSTMCell
from bptt.cells.min_gru import MinGRU

CELLS: Mapping[str, type[Cell]] = {
    "tanh": Tanh,
    "relu": Relu,
    "gru": GRUCell,
    "lstm": LSTMCell,
    "mingru": MinGRU,
}

ELMAN = [name for name, cell in CELLS.items() if cell.f is not None]
"""Those without gates."""
