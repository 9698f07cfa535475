"""What the columns of tables are measured by, and what the network reads of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bptt.data.blocks import blocks_of
from bptt.data.scaling import Scaling, standard_blocks
from bptt.data.tables.categories import CALENDAR, one_hot
from bptt.data.tables.columns import Columns
from bptt.errors import BpttError


@dataclass(frozen=True)
class Measures:
    """What the columns of a table are measured by.

    y: of the target; None where each series has units of its own, or there is a label. x: of inputs
    that are numbers. classes: of each category. labels: the classes of the label, if it has some.
    """

    y: Scaling | None
    x: Scaling | None
    classes: tuple[tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()


def table_config(
    path: Path | None, sha256: str, columns: Columns, measures: Measures
) -> dict[str, Any]:
    """Return what it takes to read a table again, as plain values."""
    config = {
        "kind": "table",
        "path": None if path is None else str(path.resolve()),
        "sha256": sha256,
        "columns": asdict(columns),
        "measures": asdict(measures),
    }
    return dict(json.loads(json.dumps(config)))


def source_of(path: Path | None) -> str:
    """Return what to call a table."""
    return "the table" if path is None else str(path)


def sizes_of(columns: Columns, classes: Sequence[Sequence[str]]) -> list[int]:
    """Return how many classes there are: of each category, and by each part of the calendar."""
    return [*map(len, classes), *(CALENDAR[part] for part in columns.calendar)]


def features(
    source: str,
    names: Sequence[str],
    numbers: np.ndarray,
    scaling: Scaling | None,
    classes: np.ndarray,
    sizes: Sequence[int],
) -> Iterator[np.ndarray]:
    """Yield blocks of x: numbers in standard units, and classes (N, k), one-hot."""
    if scaling is None:
        yield from (one_hot(block, sizes) for _, block in blocks_of(classes))
        return
    start = 0
    for standard in standard_blocks(source, names, numbers, scaling):
        parts = [standard]
        if sizes:
            parts.append(one_hot(classes[start : start + len(standard)], sizes))
        yield np.concatenate(parts, axis=1)
        start += len(standard)


def require_measures(source: str, columns: Columns, measures: Measures) -> None:
    """Raise BpttError unless there is a mean and a scale for each column."""
    measured = [len(scaling.mean) if scaling else 0 for scaling in (measures.y, measures.x)]
    read = [0 if columns.units_of_each else len(columns.target), len(columns.inputs)]
    if measured != read:
        raise BpttError(
            f"measures are of {measured[0]} target and {measured[1]} input columns; {source} is "
            f"read with {read[0]} and {read[1]}: name the columns of that run"
        )
