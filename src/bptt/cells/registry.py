"""The cells that there are, by name, without torch until one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bptt.cells.cell import Cell

PLACES = {
    "tanh": "elman.Tanh",
    "relu": "elman.Relu",
    "gru": "gru.GRUCell",
    "lstm": "lstm.LSTMCell",
    "mingru": "min_gru.MinGRU",
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
        found: type[Cell] = getattr(import_module(f"bptt.cells.{file}"), kind)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


CELLS = _Cells()
