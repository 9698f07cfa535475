"""How a column writes its times: one format for all its rows, and a time zone if it has one.

A format is a pattern of strptime, such as "%d/%m/%Y %H:%M", with %q for a quarter; or "iso", for
ISO 8601 with a time of day or a fraction in some rows only, "iso with zone", or "number".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from bptt.errors import BpttError

if TYPE_CHECKING:
    import polars as pl

ISO, ISO_WITH_ZONE, NUMBER = "iso", "iso with zone", "number"
BY_NUMBERS = tuple(
    form.replace("/", mark)
    for mark in "/-."
    for form in ("%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%y/%m/%d")
)
BY_NAMES = (
    *("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %y", "%b %d, %Y", "%b %d %Y", "%Y-%b-%d"),
    *("%Y %b %d", "%a, %d %b %Y", "%a %d %b %Y"),
)
DAYS = (*BY_NUMBERS, *BY_NAMES, *(form.replace("%b", "%B") for form in BY_NAMES), "%Y%m%d")
MONTHS_BY_NAMES = ("%b-%y", "%b %y", "%b-%Y", "%b %Y", "%Y-%b", "%Y %b")
PERIODS = (
    *("%Y-%m", "%Y/%m", "%m/%Y", "%m-%Y", "%Y%m", "%YM%m", "%Ym%m"),
    *(*MONTHS_BY_NAMES, *(form.replace("%b", "%B") for form in MONTHS_BY_NAMES)),
    *("%YQ%q", "%Y-Q%q", "%Y Q%q", "Q%q %Y", "Q%q-%Y", "Q%q/%Y", "%G-W%V", "%GW%V", "%G-W%V-%u"),
)
CLOCKS = (
    *("%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p", "%I:%M%p", "%I:%M:%S%p"),
    *("%H%M%S", "%H%M"),
)
ZONES = ("", "Z", "%:z", " %:z", "%z", " %z", "%#z", " UTC", " GMT")
TAILS = tuple(f"{join}{clock}{zone}" for join in "T " for clock in CLOCKS for zone in ZONES)
COMPACT = r"^(1[5-9]|2[01])\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])?$"
"""Dates of digits alone, which are numbers unless every row looks like this."""
SHAPES = {
    **dict.fromkeys(("%Y", "%G"), r"\d{4}"),
    **dict.fromkeys(("%m", "%d", "%H", "%I"), r"\d{1,2}"),
    **dict.fromkeys(("%y", "%V", "%M", "%S"), r"\d{2}"),
    **dict.fromkeys(("%b", "%a"), "[A-Za-z]{3}"),
    **{"%u": "[1-7]", "%q": "[1-4]", "%B": "[A-Za-z]{3,}", "%p": "[AaPp][Mm]"},
    **{"%.f": r"(?:\.\d{1,9})?", "%:z": r"[+-]\d{2}:\d{2}", "%z": r"[+-]\d{4}"},
    "%#z": r"[+-]\d{2}",
}
PARTS = re.compile(r"(%(?:\.f|:z|#z|.))")
OFFSET = re.compile(r"%[:#]?z")
IN_UTC = re.compile(r"(?:Z| UTC| GMT)$")
HAS_DAY = re.compile(r"%[deFDjuwcxs+]")
AN_OFFSET = r"([+-]\d{2}):?(\d{2})?$"
MIXED = {  # the formats that a column of ISO 8601 may mix, with a space for the T
    ISO: ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d"),
    ISO_WITH_ZONE: ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"),
}


def tells_zone(form: str) -> bool:
    """Whether texts of this format say how far they are from UTC."""
    return form == ISO_WITH_ZONE or bool(OFFSET.search(form) or IN_UTC.search(form))


@cache
def shape(form: str) -> re.Pattern[str]:
    """Return what texts of a format look like."""
    return re.compile("".join(SHAPES.get(part, re.escape(part)) for part in PARTS.split(form)))


def formats_of(text: str) -> Iterator[str]:
    """Yield the formats that a text looks like.

    >>> list(formats_of("01/02/2020 3:15 PM"))
    ['%d/%m/%Y %I:%M %p', '%m/%d/%Y %I:%M %p']
    """
    for form in PERIODS:
        if shape(form).fullmatch(text):
            yield form
    for form in DAYS:
        if start := shape(form).match(text):
            rest = text[start.end() :]
            yield from (form + tail for tail in ("", *TAILS) if shape(tail).fullmatch(rest))


def read_times(texts: pl.Series, form: str) -> pl.Series:
    """Return texts as datetimes: in UTC if they tell their zone; null where they do not fit."""
    import polars as pl  # noqa: PLC0415

    if form in MIXED:
        plain = texts.str.replace("Z$", "+00:00").str.replace("T", " ", literal=True)
        mixed = (_parsed(pl.col("t"), form) for form in MIXED[form])
        return plain.to_frame("t").select(pl.coalesce(*mixed)).to_series()
    if "%q" in form:
        texts, form = _without_quarter(texts, form)
    elif "%V" in form and not HAS_DAY.search(form):
        texts, form = texts + "-1", form + "-%u"
    if not HAS_DAY.search(form):
        texts, form = texts + " 1", form + " %d"
    try:
        return texts.to_frame("t").select(_parsed(pl.col("t"), form)).to_series()
    except (pl.exceptions.ComputeError, pl.exceptions.InvalidOperationError) as error:
        reason = str(error).partition("\n")[0]
        raise BpttError(
            f"time_format {form!r} (--time-format) cannot be used: {reason}; expected one such as "
            "'%d/%m/%Y %H:%M'"
        ) from None


def _parsed(texts: pl.Expr, form: str) -> pl.Expr:
    times = texts.str.to_datetime(form, time_unit="us", strict=False)
    return times.dt.replace_time_zone(None) if OFFSET.search(form) else times


def _without_quarter(texts: pl.Series, form: str) -> tuple[pl.Series, str]:
    """Put the first month of a quarter in its place."""
    before, after = form.split("%q", 1)
    start = shape(before).pattern
    for quarter in range(1, 5):
        texts = texts.str.replace(f"^({start}){quarter}", f"${{1}}{3 * quarter - 2:02d}")
    return texts, f"{before}%m{after}"


@dataclass
class TimeFormats:
    """The formats that fit all of the texts seen so far.

    differ: for two that do, the first text that they read as different times. offsets: from UTC,
    those that the texts tell, a few at most. fit_all: whether there is one that does.
    """

    forms: list[str] = field(default_factory=list)
    differ: dict[tuple[str, str], str] = field(default_factory=dict)
    offsets: set[str] = field(default_factory=set)
    fit_all: bool = True

    @classmethod
    def of(cls, blocks: Iterable[pl.Series]) -> TimeFormats:
        """Return those of a whole column; where none fits, the one that fits the most at first."""
        formats = cls()
        for block in blocks:
            texts = block.drop_nulls()
            if len(texts) and not formats.add(texts):
                break
        return formats

    def add(self, texts: pl.Series) -> bool:
        """Leave out the formats that do not fit; return whether there is more to learn."""
        forms = self.forms or [*formats_of(texts[0]), *_mixed(texts)]
        if not forms:
            return False
        times = {form: _times_that_fit(texts, form) for form in forms}
        fits = [form for form in forms if not times[form].has_nulls()]
        if not fits:  # what does not fit is reported as the column is read
            self.forms, self.fit_all = [max(forms, key=lambda form: times[form].count())], False
            return False
        self.forms = fits
        for one, other in itertools.combinations(fits, 2):
            rows = (times[one] != times[other]).arg_true()
            if len(rows):
                self.differ.setdefault((one, other), texts[int(rows[0])])
        self.note_offsets(texts)
        return len(fits) > 1 or tells_zone(fits[0])

    def note_offsets(self, texts: pl.Series) -> None:
        """Note how far the texts are from UTC, such as "+02:00", if they tell it."""
        if tells_zone(self.forms[0]) and len(self.offsets) < 2:
            rows = texts.str.extract_groups(AN_OFFSET).struct.unnest().unique().rows()
            self.offsets |= {f"{hours or '+00'}:{minutes or '00'}" for hours, minutes in rows}

    def require_one(self, column: str) -> str | None:
        """Return the format, None if there is none, or raise BpttError where two differ."""
        if not self.forms:
            return None
        first, *others = self.forms
        for other in others:
            if text := self.differ.get((first, other)):
                ways = ", ".join(f"{_day(text, form)} by {form!r}" for form in self.forms)
                raise BpttError(
                    f"{column} can be read in {len(self.forms)} ways: {text!r} is {ways}; say "
                    "which with time_format (--time-format)"
                )
        return first


def _mixed(texts: pl.Series) -> list[str]:
    """Return under what name ISO 8601 goes, if a text is that."""
    iso = any(form.startswith("%Y-%m-%d") for form in formats_of(texts[0]))
    zoned = any(tells_zone(form) for form in formats_of(texts[0]))
    return [ISO_WITH_ZONE if zoned else ISO] if iso else []


def _times_that_fit(texts: pl.Series, form: str) -> pl.Series:
    """Return the times of the texts that also look like the format; polars is lenient with it."""
    import polars as pl  # noqa: PLC0415

    times = read_times(texts, form)
    if form in MIXED:
        return times
    fits = texts.str.contains(f"^(?:{shape(form).pattern})$")
    return pl.select(pl.when(fits).then(times)).to_series()


def _day(text: str, form: str) -> str:
    import polars as pl  # noqa: PLC0415

    return str(read_times(pl.Series([text]), form)[0]).removesuffix(" 00:00:00")
