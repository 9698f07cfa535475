"""Rows of any number, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 16
"""Rows at a time."""


def blocks_of(rows: np.ndarray, overlap: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, block) of the rows; each block ends with `overlap` rows of the next one."""
    for start in range(0, len(rows) - overlap, BLOCK):
        yield start, rows[start : start + BLOCK + overlap]


def steps_of(rows: np.ndarray, lost: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, block) of the rows or, with `lost` 1, of the differences between them."""
    for start, block in blocks_of(rows, lost):
        yield start, np.diff(block, axis=0) if lost else block
