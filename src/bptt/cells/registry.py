"""The cells that there are, by name."""

from __future__ import annotations

from collections.abc import Mapping

from bptt.cells.elman import RELU, TANH
from bptt.cells.gru import GRU
from bptt.cells.kind import Kind
from bptt.cells.lstm import LSTM

CELLS: Mapping[str, Kind] = {kind.name: kind for kind in (TANH, RELU, GRU, LSTM)}
