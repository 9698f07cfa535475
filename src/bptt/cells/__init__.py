"""What a step is: one file a cell, with its equations and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bptt.cells.registry import CELLS, PLACES

if TYPE_CHECKING:
    from bptt.cells.cell import Cell

__all__ = sorted({place.partition(".")[2] for place in PLACES.values()})  # noqa: PLE0605


def __getattr__(name: str) -> type[Cell]:
    """Return a cell by the name of its class."""
    for key, place in PLACES.items():
        if place.partition(".")[2] == name:
            return CELLS[key]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the cells' classes."""
    return __all__
