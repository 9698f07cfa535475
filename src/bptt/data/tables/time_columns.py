"""The column of a table that holds its times, read as numbers or as datetimes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.data.spool import spool
from bptt.data.tables.clock import Clock, clock_of, rising_instants
from bptt.data.tables.table_rows import Problems, TableFile, WrongRows
from bptt.data.tables.times import COMPACT, NUMBER, TimeFormats, read_times, tells_zone
from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl


@dataclass
class TimeColumn:
    """A column of times.

    form, zone: those that were asked for, if any. likely: a form to take where several fit. wrong:
    what is wrong with it, once it is read.
    """

    file: TableFile
    name: str
    form: str | None = None
    zone: str | None = None
    likely: str | None = None

    def __post_init__(self) -> None:
        self.wrong: Problems = {}
        self.kind: Any = self.file.kinds[self.name]

    @property
    def title(self) -> str:
        """What to call it."""
        return f"column {self.name!r} (time) of {self.file.source}"

    def read(self) -> tuple[np.ndarray, Clock]:
        """Return float64, or datetime64 in UTC if the clock has a zone, (N,), and its clock.

        What is wrong is NaN or NaT.
        """
        import polars as pl  # noqa: PLC0415

        if not (self.kind == pl.String or self.kind.is_numeric()):
            return self._read_typed()
        form, formats = (self.form, TimeFormats()) if self.form else self._format()
        if form == NUMBER:
            values, self.wrong = self.file.read([self.name])
            return values[:, 0], Clock()
        times = spool(self._by_format(form)).view("M8[us]")
        clock = clock_of(form, formats.offsets or self._offsets(form), self.zone)
        return (times if clock.is_aware else self._in_utc(times)), clock

    def _read_typed(self) -> tuple[np.ndarray, Clock]:
        its_zone = getattr(self.kind, "time_zone", None)
        zone = self.zone or its_zone
        unit = self.file.head[self.name].to_numpy().dtype
        if zone is not None and unit == "M8[D]":
            unit = np.dtype("M8[us]")
        times = spool(self._typed(unit)).view(unit)
        return (self._in_utc(times) if its_zone is None else times), Clock(None, zone, bool(zone))

    def _typed(self, unit: np.dtype) -> Iterator[np.ndarray]:
        start = 0
        for column in self.file.column(self.name):
            self._note("missing", column.is_null(), start)
            yield column.to_numpy().astype(unit).view(np.int64)
            start += len(column)

    def _format(self) -> tuple[str, TimeFormats]:
        """Return the format that fits all rows; NUMBER for numbers that are no dates."""
        texts = self._texts()
        if self.name not in self.file.number_columns:
            formats = TimeFormats.of(texts)
            if self.likely in formats.forms:
                return self.likely, formats
            return formats.require_one(self.title) or "%Y-%m-%d", formats
        head = next(texts, None)
        if head is None or not head.drop_nulls().str.contains(COMPACT).all():
            return NUMBER, TimeFormats()
        formats = TimeFormats.of(itertools.chain([head], texts))
        return (formats.forms[0] if formats.forms and formats.fit_all else NUMBER), formats

    def _texts(self) -> Iterator[pl.Series]:
        import polars as pl  # noqa: PLC0415

        for column in self.file.column(self.name):
            yield column.cast(pl.String)

    def _by_format(self, form: str) -> Iterator[np.ndarray]:
        """Yield blocks of times, and note what does not fit the format."""
        start = 0
        for texts in self._texts():
            times = read_times(texts, form)
            self._note("text", times.is_null() & texts.is_not_null(), start, texts)
            self._note("missing", texts.is_null(), start)
            yield times.to_numpy().astype("M8[us]").view(np.int64)
            start += len(texts)

    def _offsets(self, form: str) -> set[str]:
        """Return how far the times are from UTC, if a format that was asked for tells it."""
        formats = TimeFormats([form])
        for texts in self._texts() if tells_zone(form) else ():
            formats.note_offsets(texts.drop_nulls())
        return formats.offsets

    def _in_utc(self, wall: np.ndarray) -> np.ndarray:
        """Return what a clock of the zone shows, in UTC, or raise BpttError where it never does."""
        if self.zone is None or self.wrong:
            return wall
        times = rising_instants(wall, self.zone)
        for row in np.flatnonzero(np.isnat(times))[:1]:
            raise BpttError(
                f"{self.title} is {wall[row].item()} in row {row + 1}, which clocks in {self.zone} "
                "skip; mend the row, or give another time_zone (--time-zone)"
            )
        return times

    def _note(self, what: str, rows: pl.Series, start: int, texts: pl.Series | None = None) -> None:
        wrong = rows.to_numpy()
        if wrong.any():
            example = "" if texts is None else str(texts[int(wrong.argmax())])[:40]
            key = (self.name, what)
            self.wrong.setdefault(key, WrongRows(example)).add(start, wrong)
