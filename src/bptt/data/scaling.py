"""Standard units: what a column is measured by, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bptt.data.blocks import blocks_of, steps_of
from bptt.errors import BpttError


@dataclass(frozen=True)
class Scaling:
    """value = mean + scale * standard, for each column.

    >>> Scaling(mean=(10.0,), scale=(2.0,)).standard(np.array([[10.0], [14.0]])).tolist()
    [[0.0], [2.0]]
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "scale", tuple(self.scale))

    def standard(self, values: np.ndarray) -> np.ndarray:
        """Return values (..., d) in standard units, in float64."""
        return np.asarray((values - np.array(self.mean)) / np.array(self.scale))

    def original(self, standard: np.ndarray) -> np.ndarray:
        """Return standard values (..., d) in the table's units, in float64."""
        return np.asarray(np.array(self.mean) + np.array(self.scale) * standard)


def measure(
    source: str, names: Sequence[str], parts: Sequence[np.ndarray], lost: int = 0
) -> Scaling:
    """Return the mean and population standard deviation of the rows of all parts together.

    lost: 1 for those of their differences, within each part.
    """

    def blocks() -> Iterator[np.ndarray]:
        return (block for rows in parts for _, block in steps_of(rows, lost))

    count = sum(len(rows) - lost for rows in parts)
    low = np.min([block.min(axis=0) for block in blocks()], axis=0)
    high = np.max([block.max(axis=0) for block in blocks()], axis=0)
    size = np.max([np.abs(b).max(axis=0) for rows in parts for _, b in blocks_of(rows)], axis=0)
    span = high - low
    for k in np.flatnonzero(span <= 4 * np.finfo(float).eps * size):  # that much is rounding
        what = f"column {names[int(k)]!r} of {source}"
        what = f"{what}: its differences are" if lost else f"{what} is"
        raise BpttError(
            f"{what} constant over the {count} rows to train on; leave the column out: name those "
            "to model (--target)"
        )
    mean = low + np.sum([(block - low).sum(axis=0) for block in blocks()], 0) / count
    squares = [(((block - mean) / span) ** 2).sum(axis=0) for block in blocks()]
    scale = span * np.sqrt(np.sum(squares, axis=0) / count)
    return Scaling(tuple(mean.tolist()), tuple(scale.tolist()))


def measure_each(rows: np.ndarray, lost: int = 0) -> Scaling:
    """Return the mean and standard deviation of rows; a column that is constant has scale 1."""
    steps = np.diff(rows, axis=0) if lost else rows
    low, span = steps.min(axis=0), np.ptp(steps, axis=0)
    is_constant = span <= 4 * np.finfo(float).eps * np.abs(rows).max(axis=0)
    unit = np.where(is_constant, 1, span)
    mean = low + (steps - low).mean(axis=0)
    scale = np.where(is_constant, 1, unit * np.sqrt((((steps - mean) / unit) ** 2).mean(axis=0)))
    return Scaling(tuple(mean.tolist()), tuple(scale.tolist()))


def standard_blocks(
    source: str, names: Sequence[str], rows: np.ndarray, scaling: Scaling, lost: int = 0
) -> Iterator[np.ndarray]:
    """Yield blocks of rows, or of their differences, in standard units."""
    for start, block in steps_of(rows, lost):
        standard = scaling.standard(block).astype(np.float32)
        for row, k in np.argwhere(~np.isfinite(standard)):
            what, where = f"column {names[int(k)]!r} of {source}", f"row {start + row + 1 + lost}"
            raise BpttError(f"{what} is too large for float32 in {where}; mend the row")
        yield standard
