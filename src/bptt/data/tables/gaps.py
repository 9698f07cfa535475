"""What is missing in a table: whole steps, and values; reported, and filled only if asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bptt.data import blocks
from bptt.data.blocks import blocks_of
from bptt.data.spool import spool
from bptt.data.tables.calendar_steps import Spacing
from bptt.data.tables.clock import Clock
from bptt.errors import BpttError

Fill = Literal["previous", "linear"]


@dataclass(frozen=True)
class MissingSteps:
    """The steps of a calendar at which a table has no row.

    count: how many. before: the number of the row, from 0, after which the first of them is.
    longest: how many follow on each other, at most. before_longest: the row before these.
    """

    count: int
    before: int
    longest: int
    before_longest: int

    @classmethod
    def of(cls, times: np.ndarray, step: Spacing) -> MissingSteps | None:
        """Return them, or None if there are none."""
        gaps = np.diff(step.positions(times)) - 1
        if not gaps.any():
            return None
        first, longest = int(np.flatnonzero(gaps)[0]), int(gaps.argmax())
        return cls(int(gaps.sum()), first, int(gaps[longest]), longest)

    def require_short(self, source: str, longest: int, times: np.ndarray, clock: Clock) -> None:
        """Raise BpttError if more steps on end are missing than are allowed."""
        if self.longest > longest:
            [after] = clock.write(times[self.before_longest][None])
            raise BpttError(
                f"{self.longest:,} steps on end are missing in {source}, after {after}; fill "
                f"covers {longest:,} at most (the window, unless told): take the rows before or "
                f"after, or allow it with longest_gap (--longest-gap {self.longest})"
            )

    def __str__(self) -> str:
        return f"{self.count:,} steps are missing" if self.count > 1 else "1 step is missing"


def with_all_steps(
    times: np.ndarray, values: np.ndarray, step: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """Return times and values with a row for every step, NaN where there was none."""
    positions = step.positions(times)
    filled = spool(_spread(positions, values))
    every = step.number(times[:1]) + step.count * np.arange(int(positions[-1]) + 1)
    return step.time(every).astype(times.dtype), filled


def _spread(positions: np.ndarray, values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, int(positions[-1]) + 1, blocks.BLOCK):
        stop = min(start + blocks.BLOCK, int(positions[-1]) + 1)
        low, high = np.searchsorted(positions, [start, stop])
        block = np.full((stop - start, values.shape[1]), np.nan)
        block[positions[low:high] - start] = values[low:high]
        yield block


@dataclass(frozen=True)
class Gap:
    """The values that are missing in one column, and are put there.

    count: how many. longest: how many rows on end, at most; row: the number of the first of these.
    """

    name: str
    count: int
    longest: int
    row: int


def gaps_of(values: np.ndarray, names: Sequence[str]) -> tuple[Gap, ...]:
    """Return what is to be filled in each column."""
    sizes = ((name, *_longest_gap(values[:, k])) for k, name in enumerate(names))
    return tuple(Gap(*size) for size in sizes if size[1])


def fill_columns(values: np.ndarray, names: Sequence[str], fill: Fill) -> tuple[Gap, ...]:
    """Fill each column in place; return what was filled."""
    gaps = gaps_of(values, names)
    for gap in gaps:
        fill_gaps(values[:, names.index(gap.name)], fill == "linear")
    return gaps


def fill_gaps(column: np.ndarray, linear: bool) -> None:
    """Put in the place of NaN what is on the line between its neighbours, or the one before."""
    done, last = 0, np.empty(0, np.int64)
    for start, block in blocks_of(column):
        known = np.concatenate([last, start + np.flatnonzero(~np.isnan(block))])
        for at in range(done, known[-1] if len(known) else 0, blocks.BLOCK):
            rows = np.arange(at, min(at + blocks.BLOCK, known[-1]))
            gaps = rows[np.isnan(column[rows])]
            if linear:
                column[gaps] = np.interp(gaps, known, column[known])
            else:
                column[gaps] = column[known[np.searchsorted(known, gaps) - 1]]
        last = known[-1:]
        done = last[0] if len(last) else 0
    column[done + 1 :] = column[done]


def _longest_gap(column: np.ndarray) -> tuple[int, int, int]:
    """Return how many NaN there are, how many on end at most, and the row of the first of these."""
    rows = np.flatnonzero(np.isnan(column))
    if not len(rows):
        return 0, 0, 0
    starts = np.flatnonzero(np.diff(rows, prepend=-2) > 1)
    sizes = np.diff(np.append(starts, len(rows)))
    longest = int(sizes.argmax())
    return len(rows), int(sizes[longest]), int(rows[starts[longest]]) + 1


def require_short(source: str, filled: Sequence[Gap], longest: int) -> None:
    """Raise BpttError if a gap is longer than is allowed."""
    for one in filled:
        if one.longest > longest:
            raise BpttError(
                f"column {one.name!r} of {source} has a gap of {one.longest:,} rows, from row "
                f"{one.row:,} on; fill covers {longest:,} at most (the window, unless told): leave "
                f"the column or the rows out, or allow it with longest_gap (--longest-gap "
                f"{one.longest})"
            )
