"""Inputs that are one of several classes: columns of a table, and what the calendar says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float

from bptt.data.tables.clock import Clock
from bptt.data.tables.table_rows import TableFile
from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl

CalendarPart = Literal["hour", "weekday", "day", "month"]
CALENDAR: dict[CalendarPart, int] = dict(zip(get_args(CalendarPart), (24, 7, 31, 12), strict=True))
"""How many values each part of a date has."""
MOST_CLASSES = 1000
"""Of a column of inputs: each takes a feature of x."""


def read_classes(file: TableFile, name: str) -> tuple[Float[np.ndarray, " N"], tuple[str, ...]]:
    """Return which class each row of a column has, by its number, and the classes as they come.

    A row without one is NaN.
    """
    import polars as pl  # noqa: PLC0415

    places: dict[str, int] = {}
    blocks = [np.empty(0)]
    for column in file.column(name):
        texts = column.cast(pl.String)
        here = texts.drop_nulls().unique(maintain_order=True).to_list()
        for text in here:
            places.setdefault(text, len(places))
        blocks.append(_numbers_of(texts, here, [places[text] for text in here]))
    return np.concatenate(blocks), tuple(places)


def _numbers_of(texts: pl.Series, known: list[str], numbers: list[int]) -> np.ndarray:
    import polars as pl  # noqa: PLC0415

    if not known:
        return np.full(len(texts), np.nan)
    coded = texts.replace_strict(known, numbers, default=None, return_dtype=pl.Float64)
    return coded.to_numpy().astype(float)


def read_categories(
    file: TableFile, names: Sequence[str], classes: Sequence[Sequence[str]] | None
) -> tuple[Float[np.ndarray, "N k"], tuple[tuple[str, ...], ...]]:
    """Return which class each row has in each of several columns, and their classes, sorted.

    classes: those to use, one list a column; a row with another is NaN, as one without any.
    """
    columns, sorted_classes = [], []
    for k, name in enumerate(names):
        numbers, there = read_classes(file, name)
        known = tuple(sorted(there)) if classes is None else tuple(classes[k])
        if not 1 <= len(known) <= MOST_CLASSES:
            raise BpttError(
                f"column {name!r} (categories) of {file.source} has {len(known):,} classes; "
                f"expected from 1 to {MOST_CLASSES:,}: leave the column out"
            )
        place = {text: number for number, text in enumerate(known)}
        table = np.array([*(place.get(text, np.nan) for text in there), np.nan])
        columns.append(table[np.where(np.isnan(numbers), len(there), numbers).astype(int)])
        sorted_classes.append(known)
    return np.stack(columns, axis=1), tuple(sorted_classes)


def calendar_classes(
    times: np.ndarray, clock: Clock, parts: Sequence[CalendarPart]
) -> Float[np.ndarray, "N k"]:
    """Return the parts of dates, in the clock's zone, counted from 0; weekdays from Monday.

    >>> calendar_classes(np.array(["2026-11-28T13:30"], "M8[us]"), Clock(), ["hour", "weekday"])
    array([[13.,  5.]])
    """
    wall = clock.wall(times)
    days, months = wall.astype("M8[D]"), wall.astype("M8[M]")
    every: dict[CalendarPart, np.ndarray] = {
        "hour": (wall.astype("M8[h]") - days).astype(int),
        "weekday": (days.astype(int) + 3) % 7,
        "day": (days - months.astype("M8[D]")).astype(int),
        "month": months.astype(int) % 12,
    }
    return np.stack([every[part] for part in parts], axis=1).astype(float)


def one_hot(
    classes: Float[np.ndarray, "*rows k"], sizes: Sequence[int]
) -> Float[np.ndarray, "*rows features"]:
    """Return a feature for each class of each column: 1 for the row's, and 0 for the others.

    >>> one_hot(np.array([[1.0, 0.0], [np.nan, 1.0]]), [3, 2]).tolist()
    [[0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    parts = [classes[..., k, None] == np.arange(size) for k, size in enumerate(sizes)]
    return np.concatenate(parts, axis=-1).astype(np.float32)
