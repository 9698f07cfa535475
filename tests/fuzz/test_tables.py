"""Random tables in a random dialect, format and calendar are read as they are, or refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bptt.data.tables.calendar_steps import step_of
from bptt.data.tables.clock import Clock, to_instants
from bptt.data.tables.columns import Columns
from bptt.data.tables.csv_dialect import Dialect
from bptt.data.tables.loading import load_rows
from bptt.data.tables.table_rows import open_table
from bptt.data.tables.times import TimeFormats, read_times
from bptt.errors import BpttError
from tests.fuzz.campaign import fuzz

DAY_FORMATS = [
    *("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%b-%Y", "%d %B %Y", "%Y/%m/%d", "%Y%m%d"),
    *("%d/%m/%y", "%b %d, %Y", "%m-%d-%Y"),
]
CLOCK_FORMATS = ["T%H:%M:%S", " %H:%M", " %I:%M %p", "T%H:%M:%SZ", " %H:%M:%S%.f", "T%H:%M:%S%:z"]
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "+05:30",
    "-09:00",
]
STARTS = st.datetimes(datetime(1950, 1, 1), datetime(2060, 1, 1))


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "t.csv")


def dates_of(kind: str, start: datetime, count: int) -> np.ndarray:
    """Return times by one of the calendars, datetime64[us]."""
    day = np.datetime64(start.date(), "D")
    steps = np.arange(count)
    months = {"month": 1, "quarter": 3, "year": 12}
    if kind in months:
        return (day.astype("M8[M]") + months[kind] * steps).astype("M8[D]").astype("M8[us]")
    if kind.removesuffix("-end") in months:
        every = months[kind.removesuffix("-end")]
        return ((day.astype("M8[M]") + every * steps + 1).astype("M8[D]") - 1).astype("M8[us]")
    if kind == "business day":
        return np.busday_offset(day, steps, "forward").astype("M8[us]")
    sizes = {"day": 1440, "week": 10080, "hour": 60, "quarter-hour": 15}
    return day.astype("M8[us]") + np.timedelta64(sizes[kind], "m") * steps


KINDS = [
    *("month", "quarter", "year", "month-end", "quarter-end", "year-end", "business day", "day"),
    *("week", "hour", "quarter-hour"),
]


@fuzz(weight=3)
@given(
    st.sampled_from(KINDS),
    STARTS,
    st.integers(12, 40),
    st.sampled_from([None, *ZONES]),
    st.sets(st.integers(2, 9), max_size=2),
)
@example("business day", datetime(2000, 1, 1), 14, None, {4, 9})
@example("business day", datetime(2000, 1, 1), 15, None, {4, 9})
@example("day", datetime(2000, 1, 3), 12, "Europe/Berlin", {5, 6})
@example("day", datetime(2000, 1, 3), 13, "Europe/Berlin", {5, 6})
def test_a_calendar_goes_on(
    kind: str, start: datetime, count: int, zone: str | None, missing: set[int]
) -> None:
    """It goes on as it was made, over what is missing.

    Where that is every row of some weekday, the others may be whole in a calendar without it. They
    are the same rows as if made by that one, so they go on by it, without that weekday.
    """
    times = to_instants(dates_of(kind, start, count + 30), zone)
    if len(np.unique(times)) < len(times) or (np.diff(times) <= np.timedelta64(0)).any():
        return  # an hour that does not exist in the zone
    if zone is not None and "hour" in kind:
        times = times[0] + np.arange(len(times)) * (times[1] - times[0])
    clock = Clock(None, zone, zone is not None)
    if "hour" in kind and times[1] - times[0] > np.timedelta64(60, "m"):
        return
    present = np.delete(times[:count], sorted(missing))
    step = step_of(present, clock)
    assert step is not None
    gaps = step.positions(present)[-1] + 1 - len(present)
    following, days = times[count:], weekdays(present, clock)
    if "day" in kind and gaps == 0 and set(days) < set(weekdays(times[:count], clock)):
        following = following[np.isin(weekdays(following, clock), days)]
    else:
        assert gaps == len(missing)
    np.testing.assert_array_equal(step.after(present[-1], len(following)), following)


def weekdays(times: np.ndarray, clock: Clock) -> np.ndarray:
    """Return which day of the week each time is on, by the clock."""
    return clock.wall(times).astype("M8[D]").astype(int) % 7


@fuzz(weight=2)
@given(
    st.lists(STARTS, min_size=1, max_size=30),
    st.sampled_from(DAY_FORMATS),
    st.sampled_from(["", *CLOCK_FORMATS]),
    st.integers(1, 40),
)
def test_one_format_is_found_or_two_are_refused(
    times: list[datetime], day: str, clock: str, block: int
) -> None:
    form = day + clock
    column = pl.Series(times).dt.truncate("1s").dt.replace_time_zone("UTC")
    texts = column.dt.to_string(form)
    expected = read_times(texts, form)
    formats = TimeFormats.of(texts.slice(k, block) for k in range(0, len(texts), block))
    try:
        chosen = formats.require_one("column 'day'")
    except BpttError as error:
        assert repr(form) in str(error)  # noqa: PT017 (it may be refused, or not)
        return
    assert chosen is not None
    assert read_times(texts, chosen).to_list() == expected.to_list()


values = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@fuzz(weight=2)
@given(
    rows=st.lists(st.tuples(values, st.none() | values), min_size=4, max_size=12),
    separator=st.sampled_from(",;\t|"),
    comma=st.booleans(),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    missing=st.sampled_from(["", "NULL", "#N/A", "?"]),
    comments=st.sampled_from(["", "# a comment\n", "# one\n# two, three\n"]),
    header=st.booleans(),
    told=st.booleans(),
)
def test_a_table_in_any_dialect_is_that_table(
    path: Path,
    *,
    rows: list[tuple[float, float | None]],
    separator: str,
    comma: bool,
    ends: str,
    encoding: str,
    missing: str,
    comments: str,
    header: bool,
    told: bool,
) -> None:
    days = [f"2024-01-{k + 1:02d}" for k in range(len(rows))]
    frame = pl.DataFrame({"day": days, "a": [a for a, _ in rows], "b": [b for _, b in rows]})
    text = comments + frame.write_csv(
        separator=separator,
        decimal_comma=comma,
        null_value=missing,
        include_header=header,
        quote_style="non_numeric" if separator == "," and comma else "necessary",
    )
    if separator == "," and comma:
        return
    path.write_bytes(text.replace("\n", ends).encode(encoding))
    names = ("a", "b") if header else ("column_2", "column_3")
    time = "day" if header else "column_1"
    dialect = Dialect()
    if told:
        dialect = Dialect(separator=separator, decimal="," if comma else ".", header=header)
    columns = Columns(target=names, time=time, fill="previous", dialect=dialect, longest_gap=99)
    try:
        with open_table(path, columns.dialect) as file:
            read = load_rows(file, columns)
    except BpttError as error:
        allowed = (
            "missing in row 1",
            "in every row",
            "decimals or with thousands",
            "looks like a row",
        )
        assert any(words in str(error) for words in allowed), error  # noqa: PT017
        return
    assert read.times is not None
    assert read.times.astype("M8[D]").astype(str).tolist() == days
    filled = frame["b"].forward_fill().to_list()
    assert read.values[:, 0].tolist() == frame["a"].to_list()
    assert read.values[:, 1].tolist() == filled


@fuzz()
@given(st.binary(max_size=200) | st.text('ab01,;.#"\n\r\t -/', max_size=120).map(str.encode))
def test_random_bytes_are_a_table_or_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        with open_table(path, Dialect()) as file:
            rows = load_rows(file, Columns())
    except BpttError as error:
        assert "\n" not in str(error) or b"\n" in content or b"\r" in content  # noqa: PT017
        return
    assert np.isfinite(rows.values).all()
